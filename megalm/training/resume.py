"""What of a run goes into a checkpoint, and how it comes back at any layout."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import nn

from megalm.boxes import Box
from megalm.checkpoint.piece import Part, Piece
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.parallel.data.stored import Stored
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.section import Section
from megalm.training.backend import Backend
from megalm.training.held import Held
from megalm.training.model import model_positions
from megalm.training.stored import unlearned, whole

if TYPE_CHECKING:
    from megalm.checkpoint.checkpoint import Checkpoint

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


def owned_pieces(state: Backend) -> dict[str, Piece]:
    """Return the values that this rank counts, for saving: over the model axes each element is given once."""
    return _pieces(state.stored(), model_positions(state.mesh), counted=True)


def local_pieces(state: Backend, *, weights_only: bool = False) -> dict[str, Piece]:
    """Return all values that this rank owns, for loading; ``Backend.loaded`` gives them to the others."""
    return _pieces(state.stored(weights_only=weights_only), model_positions(state.mesh), counted=False)


def weight_pieces(model: nn.Module, held: Held, mesh: Mesh) -> dict[str, Piece]:
    """Return what this rank holds of a model, whose parameters have memory of their own each, for loading."""
    learned = (whole(spec_of(each), each.data) for each in held.parameters() if each.requires_grad)
    return _pieces([*learned, *unlearned(model, held)], model_positions(mesh), counted=False)


def _pieces(tensors: Iterable[Stored], positions: Mapping[str, int], *, counted: bool) -> dict[str, Piece]:
    pieces: dict[str, Piece] = {}
    for each in tensors:
        starts = [part.start for part in each.spec.local_slices(positions)]
        parts: list[Part] = []
        for box, values in each.boxes if counted else [*each.boxes, *each.copies]:
            kept = each.spec.owned_slices(positions) if counted else tuple(slice(0, size) for size in each.spec.shape)
            part = None if kept is None else box.within(kept)
            if part is not None:
                parts.append((Box(box.moved(starts), box.sizes).moved(part.offsets), values[part.slices()]))
        pieces[each.name] = Piece(each.spec.shape, each.dtype, tuple(parts))
    return pieces


def facts(state: Backend, config: RunConfig) -> dict[str, Any]:
    """Return what a checkpoint holds beside tensors."""
    return {
        "step": state.step,
        "updates": state.updates,
        "loss_scale": {"value": state.loss_scale.value, "calm_steps": state.loss_scale.calm_steps},
        "config": config.model_dump(mode="json", by_alias=True),
    }


def restore(state: Backend, checkpoint: "Checkpoint") -> None:
    """Continue from a checkpoint: values, optimizer state and the step."""
    checkpoint.load(local_pieces(state))
    state.loaded()
    state.step = int(checkpoint.facts["step"])
    state.updates = int(checkpoint.facts["updates"])
    for name, value in checkpoint.facts.get("loss_scale", {}).items():  # format 1 without it had no float16
        setattr(state.loss_scale, name, value)


def check_same_run(config: RunConfig, checkpoint: "Checkpoint") -> None:
    """Refuse to resume what would be another run.

    Raises:
        UserError: a key of ``FIXED`` differs; the key is named.
    """
    was = {**checkpoint.facts["config"]}
    for name in {key.partition(".")[0] for key in FIXED}:
        was[name] = _as_said_now(getattr(config, name), was[name])
    now = config.model_dump(mode="json", by_alias=True)
    for key in FIXED:
        saved, asked = was, now
        for word in key.split("."):
            saved, asked = saved[word], asked[word]
        if saved != asked:
            name, saved, asked = _first_difference(key, saved, asked)
            raise UserError(
                f"{name} was {saved} when this run was saved and is {asked} now, which would be another run; put it "
                "back, or choose another run.dir."
            )


def _as_said_now(section: Section, saved: Any) -> Any:
    """Return a section as this version would have saved it: keys newer than the checkpoint have their defaults."""
    try:
        return type(section).model_validate(saved).model_dump(mode="json", by_alias=True)
    except (ValidationError, UserError):  # what no longer can be said is told as it was
        return saved


def _first_difference(key: str, saved: Any, asked: Any) -> tuple[str, Any, Any]:
    if isinstance(saved, dict) and isinstance(asked, dict):
        for word in {**saved, **asked}:
            if saved.get(word) != asked.get(word):
                return _first_difference(f"{key}.{word}", saved.get(word), asked.get(word))
    return key, saved, asked
