"""Oracle: the words by hand, and the checker."""

from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.config import PipelineConfig
from megalm.training.programs import Programs, rank_of_stage


def programs_of(
    schedule: str, num_ranks: int, num_microbatches: int, num_blocks: int | list[int], at_end: list[tuple[int, int]]
) -> Programs:
    config = PipelineConfig(schedule=schedule)
    holders = rank_of_stage(config, num_ranks, num_microbatches)
    blocks = [num_blocks] * len(holders) if isinstance(num_blocks, int) else num_blocks
    return Programs(config, holders, num_ranks, blocks, at_end)


def words(programs: Programs, num_microbatches: int) -> list[str]:
    return [" ".join(map(str, actions)) for actions in programs.training(num_microbatches).ranks]


def test_a_step_of_two_stages() -> None:
    assert rank_of_stage(PipelineConfig(), 2, 2) == [0, 1]
    assert words(programs_of("1f1b", 2, 2, [2, 1], []), 2) == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1/1 0REDUCE_GRAD/1 0B1/0 0REDUCE_GRAD/0",
        "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1/0 1SEND_B1 1REDUCE_GRAD/0",
    ]


def test_a_program_is_made_once() -> None:
    programs = programs_of("1f1b", 2, 2, 1, [])
    assert programs.training(3) is programs.training(3)
    assert programs.training(3).num_microbatches == 3


def test_what_two_stages_of_a_rank_share_is_reduced_at_the_end() -> None:
    assert words(programs_of("zb-v", 1, 1, 1, [(0, 0)]), 1)[0].endswith(" 0REDUCE_GRAD/0")


def test_an_evaluation_runs_forward_only() -> None:
    programs = programs_of("interleaved", 2, 4, 1, [])
    program = programs.evaluation(2)
    assert [" ".join(map(str, actions)) for actions in program.ranks] == [
        "0F0 0SEND_F0 0F1 0SEND_F1 2RECV_F0 2F0 2SEND_F0 2RECV_F1 2F1 2SEND_F1",
        "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1 3RECV_F0 3F0 3RECV_F1 3F1",
    ]
    assert programs.evaluation(0).ranks == ((), ())


def test_every_program_of_a_run_passes_the_checker() -> None:
    for schedule in ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe-v"):
        check(programs_of(schedule, 3, 5, 2, [(0, 1)]).training(5))
