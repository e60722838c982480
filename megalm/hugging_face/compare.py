"""The logits of a checkpoint beside those of transformers for a directory: do both hold the same model."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
from torch import Tensor

from megalm.batch import MicroBatch, Source
from megalm.checkpoint.piece import Piece
from megalm.hugging_face.exporter import run_of
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.models.dialects import DIALECTS
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.chosen import Chosen, choose
from megalm.training.model import build_part
from megalm.validation import validate

if TYPE_CHECKING:
    from megalm.checkpoint.checkpoint import Checkpoint

SAMPLES, TOKENS = 2, 32
ALLOWED = {"fp64": 1e-4, "fp32": 1e-4}
ALLOWED_NARROW = 5e-2
"""Largest difference by the precision of the files, in units of the largest logit; both sides compute in fp32."""


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Args:
        sentence: for the screen.
        agrees: whether the difference is rounding; also where nothing was compared.
    """

    sentence: str
    agrees: bool


def compare(checkpoint: "Checkpoint", directory: Path, precision: str, task: str | None = None) -> Comparison:
    """Compare a checkpoint's logits with those that transformers computes from a directory, both in fp32.

    Args:
        checkpoint: of ours.
        directory: Hugging Face's.
        precision: of the directory's weights.
        task: whose model the directory has, of a run of several tasks; see ``choose``.
    """
    if importlib.util.find_spec("transformers") is None:
        return Comparison("logits were not compared: transformers is not installed", True)
    chosen = choose(run_of(checkpoint), task)
    config = _small(chosen.config)
    needed = 4 * sum(torch.Size(shape).numel() for shape, _ in checkpoint.names().values())
    free = psutil.virtual_memory().available
    if 3 * needed > free:  # one model at a time, and its output
        return Comparison(
            f"logits were not compared: that takes {3 * needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free",
            True,
        )
    tokens_bs = _tokens(config)
    ours = _our_logits(config, checkpoint, chosen, tokens_bs)
    theirs = _their_logits(directory, config.model, tokens_bs)
    difference, largest = float((ours - theirs).abs().max()), float(theirs.abs().max())
    agrees = difference <= ALLOWED.get(precision, ALLOWED_NARROW) * max(largest, 1.0)
    verb = "equal" if agrees else "DIFFER from"
    return Comparison(
        f"logits {verb} those of transformers: largest difference {difference:.1e}, largest logit {largest:.1e}", agrees
    )


def _small(config: RunConfig) -> RunConfig:
    """Return a run of the same model on one process, in fp32, over a few tokens."""
    of_tokens = [task for task in config.objective.tasks or [] if task.num_labels is None]
    config = config.of_task(of_tokens[0]) if of_tokens else config
    tree = config.model_dump(mode="json", by_alias=True)
    kept = {name: tree[name] for name in ("model", "objective", "data")}
    longest = config.model.longest_sequence or TOKENS
    return validate(RunConfig, {**kept, "train": {"precision": "fp32", "seq_length": min(TOKENS, longest)}})


def _tokens(config: RunConfig) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    tokens_bs = torch.randint(config.model.vocab_size, (SAMPLES, config.train.seq_length), generator=generator)
    padding = config.model.pad_token_id
    return tokens_bs if padding is None else tokens_bs.masked_fill(tokens_bs == padding, 0)  # it has no positions there


@torch.no_grad()
def _our_logits(config: RunConfig, checkpoint: "Checkpoint", chosen: Chosen, tokens_bs: Tensor) -> Tensor:
    part = build_part(config, Mesh.alone(), [0], Axis.alone())
    named = {spec_of(parameter).name: parameter.data for parameter in part.held.parameters()}
    pieces = {chosen.saved(name): Piece.whole(values) for name, values in named.items()}
    checkpoint.load(pieces, cast=True)
    b, s = tokens_bs.shape
    positions_bs = torch.arange(s).expand(b, s)
    rows_bs = torch.arange(b * s).view(b, s)
    source = None
    if config.model.family in ENCODER_DECODERS:
        source = Source(tokens_bs.flip(1), positions_bs, rows_bs)
    batch = MicroBatch(tokens_bs, tokens_bs, positions_bs, rows_bs, 1.0, source=source)
    part.model.eval()
    if config.model.num_labels is None:
        logits: Tensor = part.model.logits(batch)  # type: ignore[operator]
        return logits.view(b, s, -1)
    *below, head = part.model.blocks()  # type: ignore[operator]
    rows: Tensor | None = None
    for block in below:
        rows = block(rows, batch)
    of_samples: Tensor = head.class_logits(rows, batch)
    return of_samples


@torch.no_grad()
def _their_logits(directory: Path, config: ModelConfig, tokens_bs: Tensor) -> Tensor:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a directory is all that is asked for
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    architecture = getattr(transformers, DIALECTS[config.family].architecture_of(config.num_labels))
    model = architecture.from_pretrained(str(directory), dtype=torch.float32, local_files_only=True).eval()
    if config.family in ENCODER_DECODERS:
        return model(tokens_bs.flip(1), decoder_input_ids=tokens_bs).logits  # type: ignore[no-any-return]
    if config.num_labels is not None:
        model.config.pad_token_id = None  # none of these tokens is padding, and then it takes a sample at a time
        return torch.cat([model(tokens_s.unsqueeze(0)).logits for tokens_s in tokens_bs])
    found = model(tokens_bs)
    return found.prediction_logits if config.family == "bert" else found.logits  # type: ignore[no-any-return]
