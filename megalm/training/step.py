"""One step of training."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from megalm import collectives
from megalm.batch import MicroBatch
from megalm.errors import TrainingError
from megalm.models.mean_loss import means, told
from megalm.training.backend import Backend


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Args:
        step: steps done, this one among them.
        loss: mean loss of the global batch's valid tokens, before the update.
        grad_norm: global gradient norm, before clipping.
        lr: learning rate used.
        updated: whether the parameters changed.
        losses: the mean of each loss that ``loss`` is a weighted sum of, by name, where they are several.
        tasks: what each task has in the loss, its weight included; under ``None`` what is of no named task.
    """

    step: int
    loss: float
    grad_norm: float
    lr: float
    updated: bool
    losses: Mapping[str, float] = field(default_factory=dict)
    tasks: Mapping[str | None, float] = field(default_factory=dict)


def train_step(state: Backend, microbatches: Sequence[MicroBatch], *, skip_non_finite: bool = False) -> StepReport:
    """Forward, backward, exchange and update: one step of training.

    Args:
        state: changed in place.
        microbatches: this rank's share of the global batch.
        skip_non_finite: whether a step whose loss or gradient is not finite is skipped, not an error. One that a
            smaller loss scale may mend is skipped in any case.

    Raises:
        TrainingError: the loss or a gradient is not finite; the parameter is named, on every rank alike.
    """
    marker = state.mesh.marker
    marker.enter("forward and backward")
    with told(state.model.modules(), state.mesh.device) as partial_means:
        partial_losses = state.run(microbatches)
    marker.enter("clipping")
    grad_norm = state.clip()
    marker.enter("summing the loss")
    tasks, learned, losses = _over_ranks(state, partial_losses, partial_means, microbatches)
    loss = sum(tasks.values())
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    if not finite and not state.loss_scale.overflows() and not skip_non_finite:
        raise TrainingError(_what_is_not_finite(state, loss))
    lr = state.lr_schedule(state.step)
    if finite and learned:
        state.loss_scale.succeeds()
        marker.enter("update")
        state.update(lr)
    state.step += 1
    return StepReport(state.step, loss, grad_norm, lr, updated=finite and learned, losses=losses, tasks=tasks)


def _over_ranks(
    state: Backend, partial_losses: Tensor, partial_means: Mapping[str, Tensor], microbatches: Sequence[MicroBatch]
) -> tuple[dict[str | None, float], bool, dict[str, float]]:
    """Return the loss by task, whether there is a token to learn from, and ``means``, the same on every rank.

    Every rank has micro-batches of the same tasks, in the same order; where there is one task, it may have none.
    """
    learned = any(microbatch.learns for microbatch in microbatches)
    numbers: dict[str | None, list[int]] = {} if microbatches else {None: []}
    for number, microbatch in enumerate(microbatches):
        numbers.setdefault(microbatch.task, []).append(number)
    partial_losses = partial_losses.cpu()
    by_task = [partial_losses[of_task].sum() for of_task in numbers.values()]
    both = torch.stack([*by_task, partial_losses.new_tensor(learned)])
    sums = torch.cat([both, *(losses.cpu() for losses in partial_means.values())])
    collectives.all_reduce(sums, state.mesh.data, scalar=True)
    collectives.all_reduce(sums, state.mesh.pp, scalar=True)
    *losses, learning_ranks = sums[: len(both)].tolist()
    found = means(dict(zip(partial_means, sums[len(both) :].view(-1, 2), strict=True)))
    return dict(zip(numbers, losses, strict=True)), learning_ranks > 0, found


def _what_is_not_finite(state: Backend, loss: float) -> str:
    """Return one sentence, the same on all ranks, that names the first parameter whose gradient is not finite."""
    named = [name for names in collectives.gather_objects(state.not_finite()[:1], state.mesh.world) for name in names]
    what = f"loss {loss}, and the gradient of {named[0]} is" if named else f"loss {loss} is"
    if not named and math.isfinite(loss):
        what = f"loss {loss}, but the gradient norm overflows: it is"
    return (
        f"step {state.step + 1}: {what} not finite; lower optimizer.lr, look at the data, or set "
        "train.non_finite: skip."
    )
