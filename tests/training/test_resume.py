"""Oracle: the state itself, before and after a checkpoint; the whole parameters of one process."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import nn

from megalm.checkpoint.checkpoint import Checkpoint
from megalm.checkpoint.store import CheckpointStore
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.parallel.data.config import ZeroConfig
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.resume import FIXED, check_same_run, facts, local_pieces, owned_pieces, restore
from megalm.training.step import train_step
from tests.ranks import RankContext, RankPool
from tests.training.test_step import share_of
from tests.training.tiny import Tiny, global_batch, run_config

LAYOUTS = (Layout(), Layout(dp=2), Layout(tp=2), Layout(tp=3), Layout(dp=2, tp=2))


def trained(layout: Layout, steps: int) -> TrainingState:
    state = build_state(run_config(layout), Mesh.build(layout))
    for step in range(steps):
        train_step(state, share_of(global_batch(step), state.mesh, 2))
    return state


def owned_elements(context: RankContext, layout: Layout) -> dict[str, tuple[int, int]]:
    """Return for each checkpoint entry the whole number of elements and those of this rank."""
    state = trained(layout, 1)
    return {
        name: (torch.Size(piece.shape).numel(), sum(values.numel() for _, values in piece.parts))
        for name, piece in owned_pieces(state).items()
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_model_ranks_together_give_each_element_once(ranks: RankPool, layout: Layout) -> None:
    by_rank = ranks.run(layout.world_size, owned_elements, layout)
    for name, (whole, _) in by_rank[0].items():
        assert sum(held[name][1] for held in by_rank) == whole * layout.dp, name
    names = {name.removeprefix("optimizer.exp_avg.") for name in by_rank[0] if name.startswith("optimizer.exp_avg.")}
    assert "frozen" in by_rank[0]
    assert names == {name for name in by_rank[0] if not name.startswith("optimizer.")} - {"frozen"}


def zero_config(layout: Layout, stage: int) -> RunConfig:
    config = run_config(layout)
    return config.model_copy(update={"zero": ZeroConfig.model_validate({"stage": stage})})


def two_more_steps(
    context: RankContext, folder: Path, layout: Layout, stage: int, resume: bool
) -> list[tuple[float, float]]:
    """Save after two steps, or go on from there; return loss and norm of the third step and the fourth."""
    config = zero_config(layout, stage)
    state = build_state(config, Mesh.build(layout))
    store = CheckpointStore(folder, world=state.mesh.world, keep=1)
    if resume:
        found = store.newest()
        assert found is not None
        restore(state, found)
    else:
        for step in range(2):
            train_step(state, share_of(global_batch(step), state.mesh, 2))
        store.save(2, owned_pieces(state), facts(state, config), asynchronous=False)
    reports = [train_step(state, share_of(global_batch(step), state.mesh, 2)) for step in (2, 3)]
    return [(report.loss, report.grad_norm) for report in reports]


@pytest.mark.parametrize(
    ("save", "load"),
    [
        ((Layout(dp=3), 3), (Layout(dp=2, tp=2), 1)),
        ((Layout(dp=3), 3), (Layout(), 0)),
        ((Layout(dp=2, tp=2), 2), (Layout(dp=3), 3)),
        ((Layout(tp=3), 0), (Layout(dp=2), 3)),
    ],
)
def test_any_stage_goes_on_at_any_other(
    ranks: RankPool, save: tuple[Layout, int], load: tuple[Layout, int], tmp_path: Path
) -> None:
    wanted = ranks.run(save[0].world_size, two_more_steps, tmp_path, *save, False)
    for found in ranks.run(load[0].world_size, two_more_steps, tmp_path, *load, True):
        assert found == [pytest.approx(pair, rel=1e-12) for pair in wanted[0]]


def continued(context: RankContext, layout: Layout, folder: Path) -> dict[str, bool]:
    """Save after two steps, restore into a state whose every value is NaN, and tell what is equal bit for bit."""
    state = trained(layout, 2)
    store = CheckpointStore(folder, world=state.mesh.world, keep=1)
    store.save(2, owned_pieces(state), facts(state, run_config(layout)), asynchronous=False)
    found = store.newest()
    assert found is not None
    fresh = build_state(run_config(layout), Mesh.build(layout))
    for piece in local_pieces(fresh).values():
        piece.parts[0][1].detach().fill_(math.nan)
    restore(fresh, found)
    saved = local_pieces(state)
    same = {
        name: torch.equal(piece.parts[0][1], saved[name].parts[0][1]) for name, piece in local_pieces(fresh).items()
    }
    return same | {"step": fresh.step == 2, "updates": fresh.optimizer.updates == 2}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_of_the_state_comes_back(ranks: RankPool, layout: Layout, tmp_path: Path) -> None:
    for told in ranks.run(layout.world_size, continued, layout, tmp_path):
        assert len(told) > 10
        assert [name for name, same in told.items() if not same] == []


class Counting(Tiny):
    """A model with a buffer that training changes, one without a dim, and one that is not to be saved."""

    def __init__(self, axis: Axis) -> None:
        super().__init__(axis)
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)


def counting(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    return Counting(axis)


def test_persistent_buffers_come_back(tmp_path: Path) -> None:
    config = run_config(Layout())
    config = config.model_copy(update={"model": config.model.model_copy(update={"family": f"{__name__}:counting"})})
    state, fresh = build_state(config, Mesh.alone()), build_state(config, Mesh.alone())
    for buffer in state.model.buffers():
        buffer.fill_(7)
    store = CheckpointStore(tmp_path, world=Mesh.alone().world, keep=1)
    store.save(1, owned_pieces(state), facts(state, config), asynchronous=False)
    found = store.newest()
    assert found is not None
    restore(fresh, found)
    assert {name: float(buffer.sum()) for name, buffer in fresh.model.named_buffers()} == {
        "running_mean": 21,
        "num_batches_tracked": 7,
        "scratch": 0,
    }


def test_what_may_not_change_is_named_by_keys_of_the_run_file() -> None:
    tree = run_config(Layout()).model_dump(mode="json", by_alias=True)
    for key in FIXED:
        value = tree
        for word in key.split("."):
            value = value[word]


def test_a_key_that_is_newer_than_the_checkpoint_had_its_default() -> None:
    """Oracle: facts from which keys are taken out that the run leaves at their defaults, or does not."""
    config = run_config(Layout())

    def checkpoint_without(*keys: str) -> Checkpoint:
        tree = config.model_dump(mode="json", by_alias=True)
        for section, key in (key.split(".") for key in keys):
            del tree[section][key]
        return cast(Checkpoint, SimpleNamespace(facts={"config": tree}))

    check_same_run(config, checkpoint_without("model.options", "data.reset_attention", "train.stop_after"))
    reset = config.model_copy(update={"data": config.data.model_copy(update={"reset_attention": True})})
    with pytest.raises(UserError, match=r"^data.reset_attention was False when .* and is True now"):
        check_same_run(reset, checkpoint_without("data.reset_attention"))
