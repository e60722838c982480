"""Oracle: tables and sentences written by hand."""

from megalm.training.memory_table import cells, lines, shown, surprises
from tests.training.memory_rows import MIB, row


def test_two_ranks_in_the_log() -> None:
    """Gradients under way are shown, since one rank has some; gathered parameters are not."""
    absent = {"gathered": 0, "under_way": 0}
    rows = [
        row(0, planned=absent, measured=absent, padding=1536),
        row(
            1,
            planned={"activations": None, "gathered": 0},
            measured={"gathered": 0},
            unknown={"activations": "the model has dropout"},
        ),
    ]
    assert lines(rows) == [
        "memory of each rank, activations at their peak in the first step:",
        "  rank            parameters  gradients  optimizer  activations  buffers  gradients under way  most resident",
        "  0     planned        1 MiB      2 MiB      3 MiB        4 MiB    5 MiB                  0 B",
        "        measured       1 MiB      2 MiB      3 MiB        4 MiB    5 MiB                  0 B        512 MiB",
        "  1     planned        1 MiB      2 MiB      3 MiB            -    5 MiB                7 MiB",
        "        measured       1 MiB      2 MiB      3 MiB        4 MiB    5 MiB                7 MiB        512 MiB",
        "of parameters, gradients and optimizer state at most 1.5 KiB a rank is padding",
        "planned activations: not known in closed form, since the model has dropout",
    ]


def test_a_gpus_own_count_stands_beside_the_process_s() -> None:
    table = lines([row(0, peak_device=3 * MIB)])
    assert table[1].endswith("most resident  most on the GPU")
    assert table[3].endswith("      512 MiB            3 MiB")


def test_of_many_ranks_the_smallest_and_the_largest_are_shown() -> None:
    rows = [row(rank, measured={"parameters": (rank * 5 % 9 + 1) * MIB}) for rank in range(9)]
    assert [each["rank"] for each in shown(rows[:8])] == list(range(8))
    assert [each["rank"] for each in shown(rows)] == [0, 7]
    assert lines(rows)[0].startswith("memory of the smallest and the largest of 9 ranks")


def test_no_difference_is_no_news() -> None:
    unknown = row(1, planned={"gradients": None}, measured={"buffers": None})
    passing = row(2, measured={"gathered": MIB, "under_way": MIB})
    assert surprises([row(0), unknown, passing]) == []


def test_a_difference_names_the_rank_that_is_furthest_off() -> None:
    rows = [row(0), row(1, measured={"gradients": 2 * MIB + 4}), row(2, measured={"gradients": 2 * MIB - 8})]
    (told,) = surprises(rows)
    assert told.startswith(
        "warning: rank 2 holds 2,097,144 bytes of gradients where 2,097,152 were planned (ranks that differ: 2);"
    )
    (alone,) = surprises(rows[:2])
    assert alone.startswith("warning: rank 1 holds 2,097,156 bytes of gradients where 2,097,152 were planned;")


def test_the_host_has_columns_of_its_own_where_something_is_there() -> None:
    there = {"optimizer": 0, "host_optimizer": 3 * MIB, "host_activations": 0}
    rows = [row(0, planned=there, measured={**there, "host_optimizer": 3 * MIB + 1})]
    head, planned, _ = cells(rows)
    assert "activations on the host" not in head
    assert planned[head.index("optimizer")] == "0 B"
    assert planned[head.index("optimizer on the host")] == "3 MiB"
    (told,) = surprises(rows)
    assert told.startswith(
        "warning: rank 0 holds 3,145,729 bytes of optimizer on the host where 3,145,728 were planned;"
    )


def test_activations_may_be_off_by_a_hundredth() -> None:
    limit = 4 * MIB + 4 * MIB // 100
    assert surprises([row(0, measured={"activations": limit})]) == []
    (told,) = surprises([row(0, measured={"activations": limit + 1})])
    assert "bytes of activations" in told
