"""Oracle: programs written by hand, and the CSV files that torch.distributed.pipelining writes and reads."""

import csv
import io

import pytest
from hypothesis import given
from torch.distributed.pipelining.schedules import _Action

from megalm.errors import UserError
from megalm.parallel.pipeline.program import Program, from_csv, to_csv
from tests.parallel.pipeline import torch_orders
from tests.parallel.pipeline.programs import lowered, patient, printed, read, schedule_programs, words

V_FORM = read("0F0 3F0 3B0 0B0", "1F0 2F0 2B0 1B0")


def test_facts() -> None:
    assert V_FORM.rank_of_stage == {0: 0, 1: 1, 2: 1, 3: 0}
    assert (V_FORM.num_stages, V_FORM.num_microbatches) == (4, 1)
    assert [V_FORM.stages_of(rank) for rank in (0, 1)] == [[0, 3], [1, 2]]
    assert [V_FORM.is_remote(stage, stage + 1) for stage in range(3)] == [True, False, True]


def test_an_empty_program_has_no_stage_and_no_micro_batch() -> None:
    empty = read("", "")
    assert (empty.num_stages, empty.num_microbatches, empty.stages_of(0)) == (0, 0, [])


@pytest.mark.parametrize("word", ["0SEND_F0", "1RECV_F0", "1SEND_B0", "0RECV_B0"])
def test_any_send_or_receive_makes_it_a_program_that_communicates(word: str) -> None:
    assert not read("0F0 0B0", "1F0 1B0").communicates
    assert read(f"0F0 {word} 0B0", "1F0 1B0").communicates


def test_csv_by_hand() -> None:
    text = "0F0,0SEND_F0,0B0/1,0REDUCE_GRAD/1\n1F0,1B0\n"
    program = read("0F0 0SEND_F0 0B0/1 0REDUCE_GRAD/1", "1F0 1B0")
    assert to_csv(program) == text
    assert from_csv(text) == program


def test_idle_cells_spaces_and_lines_at_the_end_mean_nothing() -> None:
    assert printed(from_csv(" 0F0 ,,0B0,\r\n,1F0,1B0,\r\n\r\n")) == ["0F0 0B0", "1F0 1B0"]


def test_an_overlapped_pair_is_its_parts() -> None:
    text = "(0F1;3B0)OVERLAP_F_B,0F2\n"
    assert printed(from_csv(text)) == ["0F1 3B0 0F2"]
    (pair,) = [_Action.from_str(cell) for cell in next(csv.reader([text])) if cell.startswith("(")]
    assert [str(part) for part in pair.sub_actions] == ["0F1", "3B0"]


@patient
@given(schedule_programs(ranks=6, microbatches=8))
def test_what_we_write_torch_and_we_read(program: Program) -> None:
    assert from_csv(to_csv(program)) == program
    assert from_csv(to_csv(lowered(program, 2))) == lowered(program, 2)
    cells = csv.reader(io.StringIO(to_csv(program)))
    assert [[str(_Action.from_str(cell)) for cell in row] for row in cells] == words(program)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
@pytest.mark.parametrize("name", ["ScheduleDualPipeV", "ScheduleZBVZeroBubble"])
def test_what_torch_writes_we_read(name: str, num_ranks: int) -> None:
    orders = [torch_orders.rank_actions(name, num_ranks, 2 * num_ranks, rank) for rank in range(num_ranks)]
    text = io.StringIO()
    csv.writer(text).writerows(["" if action is None else action for action in actions] for actions in orders)
    assert ("OVERLAP_F_B" in text.getvalue()) == (name == "ScheduleDualPipeV")
    assert words(from_csv(text.getvalue())) == torch_orders.in_v(name, num_ranks, 2 * num_ranks)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "0F0,0B0\n1F0,1X0\n",
            "line 2, cell 2: '1X0' is no action; write one like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD.",
        ),
        ("", "it holds no action; write one line for each pipeline rank, as 0F0,0F1,0B0,0B1."),
        (",,\n\n", "it holds no action; write one line for each pipeline rank, as 0F0,0F1,0B0,0B1."),
        (
            "0F0," + "1" * 200_000,
            "it is no CSV (field larger than field limit (131072)); write one line for each pipeline rank, as "
            "0F0,0F1,0B0,0B1.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, told: str) -> None:
    with pytest.raises(UserError) as refusal:
        from_csv(text)
    assert str(refusal.value) == told
