"""What of a run goes into a checkpoint, and how it comes back at any layout."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from megalm.boxes import Box
from megalm.checkpoint.piece import Part, Piece
from megalm.checkpoint.store import Checkpoint
from megalm.errors import UserError
from megalm.parallel.data.bucket import Bucket
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


@dataclass(frozen=True)
class _Tensor:
    """One entry of a checkpoint: the boxes, of this rank's slice, that the rank owns, with their live values."""

    name: str
    spec: ParamSpec
    dtype: torch.dtype
    boxes: list[tuple[Box, Tensor]]


def owned_pieces(state: TrainingState) -> dict[str, Piece]:
    """Return the values that this rank counts, for saving: over the model axes each element is given once."""
    return _pieces(_tensors(state), model_positions(state.mesh), counted=True)


def local_pieces(state: TrainingState, *, weights_only: bool = False) -> dict[str, Piece]:
    """Return all values that this rank owns, for loading; ``Exchange.publish`` gives them to the others."""
    return _pieces(_tensors(state, weights_only=weights_only), model_positions(state.mesh), counted=False)


def _pieces(tensors: Iterable[_Tensor], positions: Mapping[str, int], *, counted: bool) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    for each in tensors:
        starts = [part.start for part in each.spec.local_slices(positions)]
        parts: list[Part] = []
        for box, values in each.boxes:
            kept = each.spec.owned_slices(positions) if counted else tuple(slice(0, size) for size in each.spec.shape)
            part = None if kept is None else box.within(kept)
            if part is not None:
                parts.append((Box(box.moved(starts), box.sizes).moved(part.offsets), values[part.slices()]))
        pieces[each.name] = Piece(each.spec.shape, each.dtype, tuple(parts))
    return pieces


def _tensors(state: TrainingState, *, weights_only: bool = False) -> Iterator[_Tensor]:
    """Yield every parameter and every tensor that the optimizer keeps for it, as this rank owns them.

    A buffer that a user's own module declares persistent (running statistics) goes with the parameters, whole.
    """
    held = {id(buffer) for buffer in state.held.buffers()}
    for name, tensor in state.model.state_dict(keep_vars=True).items():
        if id(tensor) in held:
            yield _whole(ParamSpec(tuple(tensor.shape), name=name), tensor)
    for parameter in state.held.parameters():
        if not parameter.requires_grad:
            yield _whole(spec_of(parameter), parameter.data)
    for bucket, kept in zip(state.buckets, state.optimizer.state, strict=True):
        yield from _owned(bucket, "", bucket.owned_values)
        for name, flat in {} if weights_only else kept.items():
            yield from _owned(bucket, f"optimizer.{name}.", flat)


def _whole(spec: ParamSpec, tensor: Tensor) -> _Tensor:
    return _Tensor(spec.name, spec, tensor.dtype, [(Box((0,) * tensor.dim(), tuple(tensor.shape)), tensor)])


def _owned(bucket: Bucket, prefix: str, flat: Tensor) -> Iterator[_Tensor]:
    found: dict[str, _Tensor] = {
        slot.spec.name: _Tensor(prefix + slot.spec.name, slot.spec, flat.dtype, []) for slot in bucket.slots
    }
    for owned in bucket.owned():
        found[owned.slot.spec.name].boxes.append((owned.box, owned.view(flat)))
    yield from found.values()


def facts(state: TrainingState, config: RunConfig) -> dict[str, Any]:
    """Return what a checkpoint holds beside tensors."""
    return {
        "step": state.step,
        "updates": state.optimizer.updates,
        "loss_scale": {"value": state.loss_scale.value, "calm_steps": state.loss_scale.calm_steps},
        "config": config.model_dump(mode="json", by_alias=True),
    }


def restore(state: TrainingState, checkpoint: Checkpoint) -> None:
    """Continue from a checkpoint: values, optimizer state and the step."""
    checkpoint.load(local_pieces(state))
    state.exchange.publish()
    state.step = int(checkpoint.facts["step"])
    state.optimizer.updates = int(checkpoint.facts["updates"])
    for name, value in checkpoint.facts.get("loss_scale", {}).items():  # format 1 without it had no float16
        setattr(state.loss_scale, name, value)


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
