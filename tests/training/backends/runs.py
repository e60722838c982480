"""A small decoder trained through each engine, and what one rank of it sees."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from megalm import collectives
from megalm.batch import IGNORED, MicroBatch
from megalm.checkpoint.store import CheckpointStore
from megalm.data.loader import TrainingData
from megalm.errors import TrainingError
from megalm.layout import Layout
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.build import build
from megalm.training.feed import Feed, objective_of
from megalm.training.resume import facts, owned_pieces, restore
from megalm.training.step import train_step
from megalm.validation import validate
from tests.ranks import RankContext
from tests.verify.runs import VOCAB_SIZE

COUNTING = ("partition_parameters", "parameter_offload")


@dataclass
class Seen:
    """Loss and gradient norm of each step, and what one more batch loses without being learned."""

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    evaluated: float = 0.0


def run_config(layout: Layout, backend: str, stage: int, /, **sections: Mapping[str, Any]) -> RunConfig:
    """Return a run whose last micro-batch is smaller and whose steps clip; sections are merged in."""
    tree: dict[str, dict[str, Any]] = {
        "model": {
            "family": "gpt2",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": 16,
        },
        "layout": layout.model_dump(),
        "zero": {"stage": stage, "backend": backend},
        "data": {"train": [{"path": "tests.verify.runs:random_windows"}]},
        "train": {"steps": 20, "global_batch_size": 12, "micro_batch_size": 4, "seq_length": 13},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)


def begin(config: RunConfig) -> tuple[Backend, Feed]:
    """Build the state of a run and what feeds it."""
    mesh = Mesh.alone() if config.layout.world_size == 1 else Mesh.build(config.layout, timeout_s=60)
    source = TrainingData(
        config.data,
        seq_length=config.train.seq_length,
        global_batch_size=config.train.global_batch_size,
        seed=config.run.seed,
        vocab_size=config.model.vocab_size,
    )
    if config.zero.backend == "deepspeed":
        as_in_a_new_process()
    state = build(config, mesh)
    state.model.train()
    return state, Feed(config, mesh, source, objective_of(config))


def as_in_a_new_process() -> None:
    """Let stage 3 of DeepSpeed count from 0.

    It numbers modules and parameters over the life of a process, and compares the numbers of all ranks; some ranks of
    the pool have done more before than others.
    """
    partition, offload = (importlib.import_module(f"deepspeed.runtime.zero.{name}") for name in COUNTING)
    partition.Init.param_id = 0
    offload.DeepSpeedZeRoOffload._register_deepspeed_module.__defaults__[0][0] = 0


def go_on(state: Backend, feed: Feed, seen: Seen, steps: int) -> None:
    """Train some more steps."""
    for _ in range(steps):
        report = train_step(state, feed.training_step(state.step))
        seen.losses.append(report.loss)
        seen.grad_norms.append(report.grad_norm)


def evaluated(state: Backend, feed: Feed) -> float:
    """Return the mean loss of one more batch."""
    state.model.eval()
    loss = state.evaluate(feed.training_step(99))
    state.model.train()
    return collectives.all_reduce(loss, state.mesh.data, scalar=True).item()


def trained(config: RunConfig, steps: int) -> Seen:
    """Train from the beginning, in whatever process group there is."""
    state, feed = begin(config)
    seen = Seen()
    go_on(state, feed, seen, steps)
    seen.evaluated = evaluated(state, feed)
    return seen


def trained_by_rank(context: RankContext, config: RunConfig, steps: int) -> Seen:
    return trained(config, steps)


def handed_on(context: RankContext, configs: Sequence[RunConfig], steps: int, folder: Path) -> Seen:
    """Train ``steps`` steps with each run in turn; each goes on from the checkpoint of the one before."""
    seen = Seen()
    for turn, config in enumerate(configs):
        state, feed = begin(config)
        store = CheckpointStore(folder, world=state.mesh.world, keep=1)
        if turn:
            newest = store.newest()
            assert newest is not None
            restore(state, newest)
        go_on(state, feed, seen, steps)
        store.save(state.step, owned_pieces(state), facts(state, config), asynchronous=False)
    return seen


def sick(batch: MicroBatch) -> MicroBatch:
    return replace(batch, loss_scale=math.nan)


def unlabelled(batch: MicroBatch) -> MicroBatch:
    return replace(batch, labels_bs=torch.full_like(batch.labels_bs, IGNORED), loss_scale=0.0)


def trained_around(context: RankContext, config: RunConfig) -> tuple[Seen, list[bool], str]:
    """Train a step, meet a sick batch and one without a label, and train another step.

    Return what the two steps saw, whether each of the batches between changed anything, and what is said of a sick one.
    """
    state, feed = begin(config)
    seen, updated = Seen(), []
    go_on(state, feed, seen, 1)
    for spoil in (sick, unlabelled):
        batches = [spoil(batch) for batch in feed.training_step(1)]
        updated.append(train_step(state, batches, skip_non_finite=True).updated)
    state.step = 1
    go_on(state, feed, seen, 1)
    try:
        train_step(state, [sick(batch) for batch in feed.training_step(2)])
    except TrainingError as error:
        return seen, updated, str(error)
    return seen, updated, "nothing"
