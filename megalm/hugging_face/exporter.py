"""``megalm export``: a checkpoint as a directory that transformers loads."""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from megalm.checkpoint.piece import Piece
from megalm.errors import UserError
from megalm.hugging_face.counterpart import Counterpart, counterpart
from megalm.hugging_face.data_facts import data_facts
from megalm.hugging_face.side_files import copy_side_files
from megalm.hugging_face.views import view_in
from megalm.hugging_face.weights import INDEX, SINGLE
from megalm.models.config_json import CONFIG, config_json, read_config
from megalm.param_spec import ParamSpec
from megalm.run_config import RunConfig
from megalm.training.chosen import Chosen, choose
from megalm.training.model import whole_specs
from megalm.training.precision import DTYPES
from megalm.validation import validate

if TYPE_CHECKING:
    from megalm.checkpoint.checkpoint import Checkpoint

SHARD_BYTES = 2 * 2**30
"""What a file holds at most, but for a tensor that is larger alone; so much memory does an export take."""


def export(
    checkpoint: "Checkpoint",
    out: Path,
    precision: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    task: str | None = None,
) -> str:
    """Write a checkpoint's weights as ``save_pretrained`` would, a file at a time, and return their precision.

    Args:
        checkpoint: of a run of a family that Hugging Face has too.
        out: a directory that is not there yet, or is empty; it appears whole or not at all.
        precision: of what is written; that of the run by default.
        shard_bytes: of a file at most.
        task: whose model it is, of a run of several tasks; see ``choose``.

    Raises:
        UserError: the model has no counterpart, the checkpoint lacks a parameter, or the directory is in use.
    """
    chosen = choose(run_of(checkpoint), task)
    config = chosen.config
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another directory.")
    precision = precision or config.train.precision
    dtype = DTYPES[precision]
    specs = whole_specs(config.model)
    theirs = counterpart(config.model, specs)
    like = checkpoint.facts.get("hugging_face") or _config_of(_source(checkpoint))
    places = _places(checkpoint, config)
    like = {**like, **data_facts(config, places, like)}
    content = config_json(config.model.model_dump(), str(dtype).removeprefix("torch."), like)
    draft = out.with_name(f"{out.name}.writing-{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        _write_weights(checkpoint, chosen, theirs, specs, dtype, draft, shard_bytes)
        (draft / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_side_files(places, draft)
        draft.replace(out)
    except OSError as error:
        raise UserError(f"{out} could not be written ({error.strerror or error}); nothing is left of it.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return precision


def run_of(checkpoint: "Checkpoint") -> RunConfig:
    """Return the run that saved a checkpoint, of a family that we build: no module is imported for a file's word.

    Raises:
        UserError: the model is of a user's own family.
    """
    tree = checkpoint.facts["config"]
    if ":" in str(tree["model"]["family"]):
        raise UserError(
            f"{checkpoint.folder} is of a model of one's own ({tree['model']['family']}), which Hugging Face lacks."
        )
    given = {name: value for name, value in tree["model"].items() if name != "from"}
    return validate(RunConfig, {**tree, "model": given})


def _write_weights(
    checkpoint: "Checkpoint",
    chosen: Chosen,
    theirs: Counterpart,
    specs: Mapping[str, ParamSpec],
    dtype: torch.dtype,
    out: Path,
    shard_bytes: int,
) -> None:
    shards = list(_shards(theirs, dtype.itemsize, shard_bytes))
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        pieces: dict[str, Piece] = {}
        for name in names:
            lying = theirs.tensors()[name]
            whole = tensors[name] = torch.empty(next(iter(lying.values())).shape, dtype=dtype)
            views = {ours: view_in(whole, region, specs[ours].shape) for ours, region in lying.items()}
            pieces |= {chosen.saved(ours): view for ours, view in views.items()}
        checkpoint.load(pieces, cast=True)
        save_file(tensors, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shards(theirs: Counterpart, element_size: int, shard_bytes: int) -> Iterator[list[str]]:
    """Deal the tensors out to files, in the order of the model."""
    held: list[str] = []
    filled = 0
    for name, lying in theirs.tensors().items():
        size = torch.Size(next(iter(lying.values())).shape).numel() * element_size
        if held and filled + size > shard_bytes:
            yield held
            held, filled = [], 0
        held.append(name)
        filled += size
    yield held


def _source(checkpoint: "Checkpoint") -> Path | None:
    """Return the directory that a run began from, if it began from one."""
    given = checkpoint.facts["config"]["model"].get("from")
    return None if given is None else Path(given)


def _config_of(source: Path | None) -> dict[str, Any]:
    """Return a directory's ``config.json``, if it is still there."""
    try:
        return {} if source is None else read_config(source)
    except UserError:
        return {}


def _places(checkpoint: "Checkpoint", config: RunConfig) -> list[Path]:
    """Return where the tokenizer may lie: beside the run file of an import, where the run began, with the data."""
    source, tokenizer = _source(checkpoint), config.tokenizer_path()
    found = [checkpoint.folder.parent.parent, source, None if tokenizer is None else tokenizer.parent]
    return [place for place in found if place is not None]
