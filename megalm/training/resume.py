"""What of a run goes into a checkpoint, and how it comes back at any layout."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import Checkpoint
from megalm.errors import UserError
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState
from megalm.training.model import model_positions

FIXED = (
    "run.seed",
    "model",
    "objective",
    "data",
    "optimizer.name",
    "train.global_batch_size",
    "train.seq_length",
    "train.precision",
)
"""What a resume may not change: another value would be another run."""


def owned_pieces(state: TrainingState) -> dict[str, Piece]:
    """Return the values that this rank counts, for saving: over the model axes each element is given once."""
    positions = model_positions(state.mesh)
    pieces: dict[str, Piece] = {}
    for name, spec, tensor in _tensors(state):
        owned = spec.owned_slices(positions)
        parts: tuple[tuple[tuple[int, ...], Tensor], ...] = ()
        if owned is not None:
            starts = [part.start for part in spec.local_slices(positions)]
            offsets = tuple(start + part.start for start, part in zip(starts, owned, strict=True))
            parts = ((offsets, tensor[owned]),)
        pieces[name] = Piece(spec.shape, tensor.dtype, parts)
    return pieces


def local_pieces(state: TrainingState, *, weights_only: bool = False) -> dict[str, Piece]:
    """Return all values that this rank holds, for loading."""
    positions = model_positions(state.mesh)
    return {
        name: Piece(spec.shape, tensor.dtype, ((tuple(part.start for part in spec.local_slices(positions)), tensor),))
        for name, spec, tensor in _tensors(state, weights_only=weights_only)
    }


def _tensors(state: TrainingState, *, weights_only: bool = False) -> Iterator[tuple[str, ParamSpec, Tensor]]:
    """Yield (checkpoint entry, spec, live tensor) of every parameter and of every tensor the optimizer keeps for it.

    A buffer that a user's own module declares persistent (running statistics) goes with the parameters, whole.
    """
    held = {id(buffer) for buffer in state.held.buffers()}
    for name, tensor in state.model.state_dict(keep_vars=True).items():
        if id(tensor) in held:
            yield name, ParamSpec(tuple(tensor.shape), name=name), tensor
    for parameter in state.held.parameters():
        spec = spec_of(parameter)
        yield spec.name, spec, parameter.data
    if weights_only:
        return
    for bucket, kept in zip(state.buckets, state.optimizer.state, strict=True):
        for slot in bucket.slots:
            for name, flat in kept.items():
                yield f"optimizer.{name}.{slot.spec.name}", slot.spec, slot.view(flat)


def facts(state: TrainingState, config: RunConfig) -> dict[str, Any]:
    """Return what a checkpoint holds beside tensors."""
    return {
        "step": state.step,
        "updates": state.optimizer.updates,
        "config": config.model_dump(mode="json", by_alias=True),
    }


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Continue from a checkpoint: values, optimizer state and the step."""
    checkpoint.load(local_pieces(state))
    state.step = int(checkpoint.facts["step"])
    state.optimizer.updates = int(checkpoint.facts["updates"])


def check_same_run(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Refuse to resume what would be another run.

    Raises:
        UserError: a key of ``FIXED`` differs; the key is named.
    """
    now = config.model_dump(mode="json", by_alias=True)
    for key in FIXED:
        saved, asked = checkpoint.facts["config"], now
        for word in key.split("."):
            saved, asked = saved[word], asked[word]
        if saved != asked:
            name, saved, asked = _first_difference(key, saved, asked)
            raise UserError(
                f"{name} was {saved} when this run was saved and is {asked} now, which would be another run; put it "
                "back, or choose another run.dir."
            )


def _first_difference(key: str, saved: Any, asked: Any) -> tuple[str, Any, Any]:
    if isinstance(saved, dict) and isinstance(asked, dict):
        for word in {**saved, **asked}:
            if saved.get(word) != asked.get(word):
                return _first_difference(f"{key}.{word}", saved.get(word), asked.get(word))
    return key, saved, asked
