"""Oracle: the state that was saved, bit for bit, and the steps of the run that saved it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megalm.checkpoint.store import CheckpointStore
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.resume import facts, local_pieces, owned_pieces, restore
from megalm.training.step import train_step
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA_TIED, run_file, windows_of


@dataclass(frozen=True)
class Held:
    """A part of a whole tensor that a rank has."""

    name: str
    whole: tuple[int, ...]
    offsets: tuple[int, ...]
    values: Tensor

    @property
    def place(self) -> tuple[slice, ...]:
        """Where it lies in the whole tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.offsets, self.values.shape, strict=True))


UNSEEN = 1e300


def config_of(model: str, layout: dict[str, int], stage: int) -> RunConfig:
    return run_file(
        model,
        model={"intermediate_size": 600},
        layout=layout,
        zero={"stage": stage},
        optimizer={"name": "adamw8bit"},
        train={"micro_batch_size": 2},
    )


def gone_on(
    context: RankContext, folder: Path, config: RunConfig, resume: bool
) -> tuple[list[Held], list[tuple[float, float]]]:
    """Save after two steps, or go on from there; return what the rank has then, and loss and norm of two more steps."""
    state = build_state(config, Mesh.build(config.layout))
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    store = CheckpointStore(folder, world=state.mesh.world, keep=1)
    if resume:
        found = store.newest()
        assert found is not None
        for kept in state.optimizer.state:
            for tensor in kept.values():
                tensor.fill_(7)
        restore(state, found)
    else:
        for step in range(2):
            train_step(state, feed.training_step(step))
        store.save(2, owned_pieces(state), facts(state, config), asynchronous=False)
    held = [
        Held(name, piece.shape, offsets, values.detach().clone())
        for name, piece in local_pieces(state).items()
        for offsets, values in piece.parts
    ]
    reports = [train_step(state, feed.training_step(step)) for step in (2, 3)]
    return held, [(report.loss, report.grad_norm) for report in reports]


@pytest.mark.parametrize(
    ("model", "save", "load"),
    [
        (GPT2, ({"dp": 3}, 3), ({"dp": 2, "tp": 2}, 1)),
        (GPT2, ({"dp": 2, "tp": 2}, 2), ({}, 0)),
        (GPT2, ({"dp": 2, "pp": 2}, 1), ({"tp": 3}, 0)),
        (LLAMA_TIED, ({"tp": 2}, 0), ({"dp": 4}, 3)),
    ],
)
def test_codes_and_absmax_come_back_at_any_layout(
    ranks: RankPool, model: str, save: tuple[dict[str, int], int], load: tuple[dict[str, int], int], tmp_path: Path
) -> None:
    before, after = config_of(model, *save), config_of(model, *load)
    saved = ranks.run(before.layout.world_size, gone_on, tmp_path, before, False)
    wholes: dict[str, Tensor] = {}
    for part in (part for parts, _ in saved for part in parts):
        whole = wholes.setdefault(part.name, torch.full(part.whole, UNSEEN, dtype=torch.float64))
        before_it = whole[part.place]
        assert ((before_it == UNSEEN) | (before_it == part.values)).all(), part.name
        whole[part.place] = part.values.double()
    assert not any((whole == UNSEEN).any() for whole in wholes.values())
    assert {part.values.dtype for parts, _ in saved for part in parts} == {torch.float64, torch.float32, torch.uint8}
    for parts, steps in ranks.run(after.layout.world_size, gone_on, tmp_path, after, True):
        assert steps == [pytest.approx(pair, rel=1e-12) for pair in saved[0][1]]
        for part in parts:
            assert torch.equal(part.values.double(), wholes[part.name][part.place]), part.name
