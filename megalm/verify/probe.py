"""What one rank sees of a few steps: losses, norms, and every gradient and updated value it holds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from megalm import rng
from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.hugging_face.load import load_weights
from megalm.mesh import Mesh
from megalm.optim.optimizer import Optimizer
from megalm.parallel.data.bucket import Bucket
from megalm.param_spec import ParamSpec
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.model import model_positions
from megalm.training.step import train_step
from megalm.training.tasks import TaskFeed, tasks_of


@dataclass(frozen=True)
class Held:
    """A tensor that a rank holds at one moment.

    Args:
        moment: ``step 1 gradient`` or ``step 1 value``.
        spec: of its parameter.
        offsets: where the local tensor begins in the whole one.
        tensor: a copy.
    """

    moment: str
    spec: ParamSpec
    offsets: tuple[int, ...]
    tensor: Tensor


@dataclass
class Probe:
    """What one rank saw.

    Args:
        rank: which one.
        losses: loss of each step.
        grad_norms: gradient norm of each step.
        held: in the order of the steps and of the model.
    """

    rank: int
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)


def probe(config: RunConfig, mesh: Mesh, steps: int) -> Probe:
    """Train ``steps`` steps and record what this rank holds after each.

    Labels are dropped at random, in some samples many and in others few, by sample and place alone: micro-batches then
    hold different numbers of valid tokens, so that a mean of means shows.
    """
    tasks = [replace(task, objective=thinned(task.objective)) for task in tasks_of(config)]
    feed = TaskFeed(tasks, [task.training_data() for task in tasks], mesh, config.objective.soft_penalty)
    state = build_state(config, mesh)
    if config.model.from_ is not None:
        load_weights(state, config)
    seen = Probe(mesh.rank)
    state.optimizer = _Recorded(state.optimizer, lambda: _hold_gradients(seen, state))
    state.model.train()
    for step in range(steps):
        report = train_step(state, feed.training_step(step))
        seen.losses.append(report.loss)
        seen.grad_norms.append(report.grad_norm)
        _hold_values(seen, state)
    return seen


class _Recorded(Optimizer):
    """A run's optimizer that shows the complete gradients just before it clips them."""

    def __init__(self, inner: Optimizer, record: Callable[[], None]) -> None:
        vars(self).update(vars(inner))
        self._record = record

    def clip(self, loss_scale: float = 1.0) -> float:
        self._record()
        return super().clip(loss_scale)


def thinned(objective: Callable[..., MicroBatch]) -> Callable[..., MicroBatch]:
    """Return the objective with labels dropped at random, a different share in each sample."""

    def drop(rows: Rows, *, reset_attention: bool) -> MicroBatch:
        batch = objective(rows, reset_attention=reset_attention)
        zero = torch.zeros(1, dtype=torch.int64)
        of_token = rng.bits(rng.key("thinned token"), batch.rows_bs, zero).squeeze(-1)
        of_sample = rng.bits(rng.key("thinned sample"), batch.rows_bs[:, :1], zero).squeeze(-1)
        dropped = of_token < of_sample
        judged = None if batch.judged_bs is None else batch.judged_bs & ~dropped
        return replace(batch, labels_bs=batch.labels_bs.masked_fill(dropped, IGNORED), judged_bs=judged)

    return drop


def _hold_gradients(seen: Probe, state: TrainingState) -> None:
    _hold_owned(seen, state, f"step {state.step + 1} gradient", lambda bucket: bucket.owned_gradients)


def _hold_values(seen: Probe, state: TrainingState) -> None:
    moment = f"step {state.step} value"
    in_parts = any(bucket.zero_stage == 3 for bucket in state.buckets)
    if in_parts:
        _hold_owned(seen, state, moment, lambda bucket: bucket.owned_values)
    for parameter in state.held.parameters():
        if in_parts and parameter.requires_grad:
            continue
        spec = spec_of(parameter)
        offsets = tuple(part.start for part in spec.local_slices(model_positions(state.mesh)))
        seen.held.append(Held(moment, spec, offsets, parameter.detach().cpu().clone()))


def _hold_owned(seen: Probe, state: TrainingState, moment: str, of: Callable[[Bucket], Tensor]) -> None:
    for bucket in state.buckets:
        for owned in bucket.owned():
            spec = owned.slot.spec
            offsets = owned.box.moved([part.start for part in spec.local_slices(model_positions(state.mesh))])
            seen.held.append(Held(moment, spec, offsets, owned.view(of(bucket)).detach().cpu().clone()))
