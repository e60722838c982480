"""``megalm import``: a Hugging Face directory as a checkpoint of ours, weights only, which any layout can load."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megalm import overrides as dotted
from megalm import rng
from megalm.checkpoint.peers import Peers
from megalm.checkpoint.piece import Piece
from megalm.checkpoint.store import CheckpointStore
from megalm.errors import UserError
from megalm.hugging_face.load import open_weights
from megalm.hugging_face.shares import Shares
from megalm.hugging_face.side_files import copy_side_files
from megalm.mesh import Axis, Mesh
from megalm.models.config_json import model_fields, read_config
from megalm.parameters import draw
from megalm.run_config import RunConfig
from megalm.run_file import write
from megalm.training.precision import DTYPES
from megalm.validation import validate
from megalm.whole_text import replace_text

CHECKPOINT = "checkpoints/step-00000000"
RUN_FILE = "run.yaml"
LONGEST = 1024
"""Tokens of a sample in the run file that is written, where the model takes as many."""

_OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "bert": {"name": "mlm_nsp"},
    "roberta": {"name": "mlm_nsp", "nsp": False},
    "t5": {"name": "seq2seq"},
    "bart": {"name": "seq2seq", "seq2seq": "denoising"},
}


def objective_of(family: str, num_labels: int | None) -> Mapping[str, Any]:
    """Return the objective section of the run file that is written; empty where it is the next token."""
    return {"name": "classify"} if num_labels is not None else _OBJECTIVES.get(family, {})


def config_of(source: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return a run of the model of a directory.

    Args:
        source: Hugging Face's directory.
        overrides: ``key.sub=value``, ``layout.tp=4`` for example.

    Raises:
        UserError: the directory is of no model that we build, or an override does not fit it.
    """
    fields = model_fields(source)
    positions = fields.get("max_position_embeddings")
    if isinstance(positions, int):
        positions -= fields.get("pad_token_id", -1) + 1
    tree: dict[str, Any] = {
        "model": {"from": str(source)},
        "objective": objective_of(fields["family"], fields.get("num_labels")),
        "data": {"train": [{"path": "data/train"}]},
        "train": {"seq_length": min(LONGEST, positions) if isinstance(positions, int) else LONGEST},
    }
    dotted.apply(tree, overrides)
    return validate(RunConfig, tree)


def import_share(config: RunConfig, out: Path, mesh: Mesh) -> list[str]:
    """Read this rank's slices and write them; every rank of the layout calls this.

    Returns:
        the names of parameters that the directory lacks and that are drawn, as a new run would.

    Args:
        config: of ``config_of``.
        out: a directory that is not there yet, or holds no checkpoints.
        mesh: this rank's axes.

    Raises:
        UserError: the directory does not hold its model whole, or ``out`` is in use.
    """
    assert config.model.from_ is not None
    source = Path(config.model.from_)
    store = unused_store(out, mesh.world, mesh.timeout_s)
    shares = Shares(config)
    pieces: dict[str, Piece] = {}
    settled = config
    drawn: list[str] = []

    def read() -> None:
        nonlocal settled
        weights = open_weights(source, config.model, shares.specs)
        settled = _settled(config, weights.dtypes)
        drawn.extend(weights.absent)
        dtype = torch.promote_types(DTYPES[settled.train.precision], torch.float32)
        pieces.update({name: Piece(spec.shape, dtype, ()) for name, spec in shares.specs.items()})
        if mesh.data.rank == 0:  # the others of the data axis would read the same
            for share in shares.counted(mesh.pp.rank, mesh.tp.rank):
                values = torch.empty(share.box.sizes, dtype=dtype)
                pieces[share.spec.name] = Piece(share.spec.shape, dtype, ((share.box.offsets, values),))
                if share.spec.name in drawn:
                    draw(values, share.spec, rng.key(config.run.seed, share.spec.name), share.box.offsets)
        weights.read_into(pieces)

    Peers(mesh.world, mesh.timeout_s, "an import").together(read)
    facts = {
        "step": 0,
        "updates": 0,
        "config": settled.model_dump(mode="json", by_alias=True),
        "hugging_face": read_config(source),
    }
    store.save(0, pieces, facts, asynchronous=False)
    if mesh.rank == 0:
        replace_text(out / RUN_FILE, _run_file(settled, out))
        copy_side_files([source], out)
    return drawn


def unused_store(out: Path, world: Axis, timeout_s: float) -> CheckpointStore:
    """Return the store of checkpoints in a directory that has none.

    Args:
        out: the directory.
        world: the ranks that write it.
        timeout_s: how long one waits for the others.

    Raises:
        UserError: there are some.
    """
    store = CheckpointStore(out / "checkpoints", world=world, keep=1, timeout_s=timeout_s)
    if store.newest() is not None:
        raise UserError(f"{out} holds checkpoints already; choose another directory.")
    return store


def _settled(config: RunConfig, dtypes: set[torch.dtype]) -> RunConfig:
    """Return the run without ``model.from``, in the precision of the files if none was asked for."""
    tree = config.model_dump(mode="json", by_alias=True)
    del tree["model"]["from"]
    if "precision" not in config.train.model_fields_set:
        tree["train"]["precision"] = _precision(dtypes)
    return validate(RunConfig, tree)


def _precision(dtypes: set[torch.dtype]) -> str:
    """Return the narrowest precision that holds every value of the files."""
    for name in ("fp64", "fp32"):
        if DTYPES[name] in dtypes:
            return name
    return {frozenset({torch.bfloat16}): "bf16", frozenset({torch.float16}): "fp16"}.get(frozenset(dtypes), "fp32")


def _run_file(config: RunConfig, out: Path) -> str:
    """Return the run file that trains on from the checkpoint."""
    resolved = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    tree = {
        "model": {name: value for name, value in resolved["model"].items() if value != {}},
        "objective": objective_of(config.model.family, config.model.num_labels),
        "data": resolved["data"],
        "train": {"seq_length": config.train.seq_length, "precision": config.train.precision},
        "checkpoint": {"load": str(out / CHECKPOINT), "weights_only": True},
    }
    return write(tree)
