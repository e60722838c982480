"""Oracle: the names and numbers that the run file's documentation promises, and files written by hand."""

import sys
from pathlib import Path
from typing import Literal

import pytest

from megalm.errors import UserError
from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.program import to_csv
from megalm.parallel.pipeline.schedule import BUILT_IN, program_of, stages_per_rank
from megalm.parallel.pipeline.schedules import interleaved, one_f_one_b
from tests.parallel.pipeline.programs import lowered, printed

ROOT = Path(__file__).parents[3]
OWN_MODULE = """
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedules import gpipe, one_f_one_b, interleaved
from megalm.parallel.pipeline.lower import with_communication

def plain(p, m, v):
    return gpipe(p, m)

def lists(p, m, v):
    return [list(actions) for actions in gpipe(p, m).ranks]

def one_rank(p, m, v):
    return gpipe(1, m)

def one_short(p, m, v):
    return Program.of([actions[:-1] for actions in gpipe(p, m).ranks])

def one_more(p, m, v):
    return gpipe(p, m + 1)

def two_stages(p, m, v):
    return interleaved(p, m, 2)

def sends(p, m, v):
    return with_communication(gpipe(p, m))

words = "0F0 0B0"
"""


@pytest.fixture(autouse=True)
def own_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a folder with a module of own schedules, and CSV files."""
    (tmp_path / "own_schedules_of_a_test.py").write_text(OWN_MODULE)
    files = {
        "good.csv": to_csv(one_f_one_b(2, 3)),
        "two_stages.csv": to_csv(interleaved(2, 2, 2)),
        "uneven.csv": "0F0,2F0,2B0,0B0\n1F0,1B0\n",
        "broken.csv": "0F0,0B0\n1F0,1Q0\n",
        "empty.csv": "\n",
        "short.csv": "0F0,0B0\n1F0\n",
        "deadlock.csv": "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n",
        "two_homes.csv": "0F0,0B0,1F0\n1F1,1B0,1B1,0F1,0B1\n",
        "lowered.csv": to_csv(lowered(one_f_one_b(2, 1), 1)),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_schedules_of_a_test", None)


@pytest.mark.parametrize(
    ("name", "asked", "given"),
    [
        *((name, "auto", 1) for name in ("gpipe", "1f1b", "zb-h1", "zb-h2")),
        *((name, "auto", 2) for name in ("interleaved", "zb-v", "dualpipe-v")),
        *(("interleaved", number, number) for number in (1, 2, 5)),
        ("1f1b", 1, 1),
        ("zb-v", 2, 2),
        ("good.csv", "auto", 1),
        ("two_stages.csv", "auto", 2),
        ("two_stages.csv", 2, 2),
        ("own_schedules_of_a_test:plain", "auto", 1),
        ("own_schedules_of_a_test:two_stages", 2, 2),
    ],
)
def test_stages_per_rank(name: str, asked: int | Literal["auto"], given: int) -> None:
    assert stages_per_rank(name, asked) == given


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        (
            "1f1b",
            2,
            "pipeline.stages_per_rank=2 contradicts pipeline.schedule=1f1b; 1f1b needs 1: write auto, or choose "
            "another schedule.",
        ),
        (
            "zb-v",
            1,
            "pipeline.stages_per_rank=1 contradicts pipeline.schedule=zb-v; zb-v needs 2: write auto, or choose "
            "another schedule.",
        ),
        (
            "two_stages.csv",
            3,
            "pipeline.stages_per_rank=3 contradicts pipeline.schedule=two_stages.csv; two_stages.csv needs 2: write "
            "auto, or choose another schedule.",
        ),
        (
            "uneven.csv",
            "auto",
            "pipeline.schedule=uneven.csv puts 2, 1 stages on its ranks; give every rank the same number.",
        ),
        (
            "1f1B",
            "auto",
            "pipeline.schedule: '1f1B' is not known; did you mean '1f1b'? Choose one of gpipe, 1f1b, interleaved, "
            "zb-h1, zb-h2, zb-v, dualpipe-v, or give package.module:name.",
        ),
        (
            "missing.csv",
            "auto",
            "pipeline.schedule=missing.csv cannot be read (No such file or directory); name a CSV file with one line a "
            "rank.",
        ),
    ],
)
def test_a_contradictory_number_is_refused(name: str, asked: int | Literal["auto"], told: str) -> None:
    with pytest.raises(UserError) as refusal:
        stages_per_rank(name, asked)
    assert str(refusal.value) == told


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("num_microbatches", [0, 1, 3, 8])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_built_in_is_made(name: str, num_ranks: int, num_microbatches: int) -> None:
    held = stages_per_rank(name, "auto")
    program = program_of(name, num_ranks, num_microbatches, held)
    assert (len(program.ranks), program.num_microbatches) == (num_ranks, num_microbatches)
    assert program.num_stages == (num_ranks * held if num_microbatches else 0)


def test_a_file_and_an_own_function() -> None:
    assert program_of("good.csv", 2, 3, 1) == one_f_one_b(2, 3)
    assert program_of("two_stages.csv", 2, 2, 2) == interleaved(2, 2, 2)
    assert printed(program_of("own_schedules_of_a_test:plain", 1, 2, 1)) == ["0F0 0F1 0B0 0B1"]


@pytest.mark.parametrize("numbers", [(1, 1, 1), (2, 4, 1), (3, 7, 2), (4, 2, 3)])
def test_the_example_passes(numbers: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program = program_of("examples.own_schedule:waves", *numbers)
    check(lowered(program, 2))
    held = [max(a.microbatch or 0 for a in actions) for actions in program.ranks]
    assert held == [numbers[1] - 1] * numbers[0]


OWN = "pipeline.schedule=own_schedules_of_a_test:"


@pytest.mark.parametrize(
    ("name", "numbers", "told"),
    [
        (
            "1f1B",
            (2, 2, 1),
            "pipeline.schedule: '1f1B' is not known; did you mean '1f1b'? Choose one of gpipe, 1f1b, interleaved, "
            "zb-h1, zb-h2, zb-v, dualpipe-v, or give package.module:name.",
        ),
        (
            "zb-h1",
            (2, 2, 2),
            "pipeline.stages_per_rank=2 contradicts pipeline.schedule=zb-h1; zb-h1 needs 1: write auto, or choose "
            "another schedule.",
        ),
        (
            "good.csv",
            (4, 3, 1),
            "layout.pp is 4, but pipeline.schedule=good.csv is for 2; make the numbers equal.",
        ),
        (
            "good.csv",
            (2, 5, 1),
            "the number of micro-batches in a step is 5, but pipeline.schedule=good.csv is for 3; make the numbers "
            "equal.",
        ),
        (
            "good.csv",
            (2, 3, 2),
            "pipeline.stages_per_rank is 2, but pipeline.schedule=good.csv is for 1; make the numbers equal.",
        ),
        (
            "broken.csv",
            (2, 1, 1),
            "pipeline.schedule=broken.csv: line 2, cell 2: '1Q0' is no action; write one like 2F0, 2B0, 2SEND_F0 or "
            "2REDUCE_GRAD.",
        ),
        (
            "empty.csv",
            (2, 1, 1),
            "pipeline.schedule=empty.csv: it holds no action; write one line for each pipeline rank, as "
            "0F0,0F1,0B0,0B1.",
        ),
        (
            "binary.csv",
            (2, 1, 1),
            "pipeline.schedule=binary.csv cannot be read (it is no UTF-8 text); name a CSV file with one line a rank.",
        ),
        (
            "folder.csv",
            (2, 1, 1),
            "pipeline.schedule=folder.csv cannot be read (Is a directory); name a CSV file with one line a rank.",
        ),
        (
            "short.csv",
            (2, 1, 1),
            "pipeline.schedule=short.csv: 1B0 is missing; add it, or its halves 1I0 and 1W0.",
        ),
        (
            "deadlock.csv",
            (2, 2, 1),
            "pipeline.schedule=deadlock.csv: 0B0 on rank 0 waits for 1B0, but rank 1 waits at 1F1 for 0F1, and so for "
            "ever; change the order of one of them.",
        ),
        (
            "two_homes.csv",
            (2, 2, 1),
            "pipeline.schedule=two_homes.csv: 1F1 stands on rank 1, but stage 1 is on rank 0; move it there.",
        ),
        (
            "lowered.csv",
            (2, 1, 1),
            "pipeline.schedule=lowered.csv has 0SEND_F0 on rank 0; write F, B, I and W only, since megalm adds sends, "
            "receives and reductions itself.",
        ),
        (
            "own_schedules_of_a_test:plane",
            (2, 1, 1),
            "pipeline.schedule: module 'own_schedules_of_a_test' has no 'plane'; did you mean 'plain'?",
        ),
        (
            "own_schedules_of_a_test:words",
            (2, 1, 1),
            OWN
            + "words is no function; name one that takes the numbers of ranks, of micro-batches and of stages a rank.",
        ),
        (
            "own_schedules_of_a_test:lists",
            (2, 1, 1),
            OWN + "lists returned list; return a Program, as Program.of(lists) makes.",
        ),
        (
            "own_schedules_of_a_test:one_rank",
            (2, 1, 1),
            "layout.pp is 2, but " + OWN + "one_rank is for 1; make the numbers equal.",
        ),
        (
            "own_schedules_of_a_test:one_more",
            (2, 1, 1),
            "the number of micro-batches in a step is 1, but " + OWN + "one_more is for 2; make the numbers equal.",
        ),
        (
            "own_schedules_of_a_test:one_short",
            (2, 1, 1),
            OWN + "one_short: 0B0 is missing; add it, or its halves 0I0 and 0W0.",
        ),
        (
            "own_schedules_of_a_test:sends",
            (2, 1, 1),
            OWN + "sends has 0SEND_F0 on rank 0; write F, B, I and W only, since megalm adds sends, receives and "
            "reductions itself.",
        ),
        (
            "own_schedules_of_a_test:two_stages",
            (2, 1, 1),
            "pipeline.stages_per_rank is 1, but " + OWN + "two_stages is for 2; make the numbers equal.",
        ),
    ],
)
def test_a_refusal_names_the_schedule_and_what_is_wrong(name: str, numbers: tuple[int, int, int], told: str) -> None:
    with pytest.raises(UserError) as refusal:
        program_of(name, *numbers)
    assert str(refusal.value) == told
