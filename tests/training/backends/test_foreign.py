"""Oracle: one process of our own engine, whose gradients are judged against plain torch elsewhere."""

from pathlib import Path

import pytest
from torch.distributed.tensor import DTensor

from megalm.layout import Layout
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import Foreign
from tests.ranks import RankContext, RankPool
from tests.training.backends.runs import Seen, begin, handed_on, run_config, trained, trained_around, trained_by_rank

STEPS = 20
DATA = Layout(dp=2)
TENSOR = Layout(dp=2, tp=2)
THREE = Layout(dp=3)
ENGINES = (
    *(("fsdp2", stage) for stage in (2, 3)),
    *(("deepspeed", stage) for stage in (0, 1, 2, 3)),
    *(("fairscale", stage) for stage in (1, 3)),
)


@pytest.fixture(scope="module")
def alone() -> Seen:
    return trained(run_config(Layout(), "native", 0), STEPS)


def check(seen: Seen, alone: Seen, tolerance: float = 1e-4) -> None:
    count = len(seen.losses)
    assert seen.losses == pytest.approx(alone.losses[:count], rel=tolerance)
    assert seen.grad_norms == pytest.approx(alone.grad_norms[:count], rel=10 * tolerance)


def test_the_run_clips_and_learns(alone: Seen) -> None:
    assert alone.losses[-1] < alone.losses[0] - 0.3
    assert max(alone.grad_norms) > 2 * 0.5


@pytest.mark.parametrize(("backend", "stage"), ENGINES)
def test_losses_are_those_of_one_process(ranks: RankPool, alone: Seen, backend: str, stage: int) -> None:
    for seen in ranks.run(2, trained_by_rank, run_config(DATA, backend, stage), STEPS):
        check(seen, alone)
        assert seen.evaluated == pytest.approx(alone.evaluated, rel=1e-4)


@pytest.mark.parametrize(("backend", "stage"), ENGINES[1:])
def test_tensor_parallel_layers_stay_what_they_are(ranks: RankPool, alone: Seen, backend: str, stage: int) -> None:
    for seen in ranks.run(4, trained_by_rank, run_config(TENSOR, backend, stage), STEPS):
        check(seen, alone)


@pytest.mark.parametrize("layout", [THREE, TENSOR])
def test_in_float64_only_rounding_is_left(ranks: RankPool, layout: Layout) -> None:
    precise = {"precision": "fp64"}
    exact = trained(run_config(Layout(), "native", 0, train=precise), 5)
    for seen in ranks.run(layout.world_size, trained_by_rank, run_config(layout, "fsdp2", 3, train=precise), 5):
        check(seen, exact, 1e-12)


@pytest.mark.parametrize(("backend", "stage"), ENGINES[4:])
def test_three_ranks_share_unevenly(ranks: RankPool, alone: Seen, backend: str, stage: int) -> None:
    for seen in ranks.run(3, trained_by_rank, run_config(THREE, backend, stage), 3):
        check(seen, alone)


@pytest.mark.parametrize(("backend", "stage"), ENGINES)
def test_checkpoints_go_from_engine_to_engine(
    ranks: RankPool, alone: Seen, backend: str, stage: int, tmp_path: Path
) -> None:
    """Weights, moments and the count of updates are there again: a wrong one would show in the next two losses."""
    native, other = run_config(DATA, "native", 1), run_config(DATA, backend, stage)
    for seen in ranks.run(2, handed_on, [native, other, other, native], 3, tmp_path):
        assert len(seen.losses) == 12
        check(seen, alone)


@pytest.mark.parametrize(("backend", "stage"), ENGINES)
def test_a_step_that_is_not_made_leaves_nothing(ranks: RankPool, alone: Seen, backend: str, stage: int) -> None:
    for seen, updated, told in ranks.run(2, trained_around, run_config(DATA, backend, stage)):
        assert updated == [False, False]
        check(seen, alone)
        assert "and the gradient of " in told


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_offloads_to_the_host(ranks: RankPool, alone: Seen, stage: int) -> None:
    config = run_config(DATA, "deepspeed", stage, zero={"stage": stage, "backend": "deepspeed", "offload": "cpu"})
    for seen in ranks.run(2, trained_by_rank, config, 5):
        check(seen, alone)


def keeps_gathered(context: RankContext, config: RunConfig) -> bool:
    state, feed = begin(config)
    state.evaluate(feed.training_step(0))
    assert isinstance(state, Foreign)
    return not isinstance(next(state.whole.blocks[1].parameters()), DTensor)


@pytest.mark.parametrize("stage", [2, 3])
def test_stage_3_of_fsdp2_gives_values_back_after_a_forward(ranks: RankPool, stage: int) -> None:
    assert ranks.run(2, keeps_gathered, run_config(DATA, "fsdp2", stage)) == [stage == 2] * 2
