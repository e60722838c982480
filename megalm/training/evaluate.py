"""Mean loss on held-out samples, by the same engine as training, and how well samples are classified."""

from collections.abc import Sequence

import torch
from torch import Tensor

from megalm import collectives
from megalm.data.loader import ValidationData
from megalm.models.class_head import counted
from megalm.models.mean_loss import means, told
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.feed import Feed, Objective
from megalm.training.tasks import Task


def evaluate_tasks(state: Backend, tasks: Sequence[Task], held_out: Sequence[ValidationData]) -> dict[str, float]:
    """Return what ``evaluate`` finds of a run's tasks.

    Of several, ``val_loss`` is the weighted sum over those that hold samples out, and what was found of each stands
    under ``task/NAME/``.
    """
    weighted, of_tasks = 0.0, {}
    for task, data in zip(tasks, held_out, strict=True):
        found = evaluate(state, task.config, data, task.objective, task.name)
        if task.name is None:
            return found
        weighted += task.weight * found.get("val_loss", 0.0)
        of_tasks.update({f"task/{task.name}/{key}": value for key, value in found.items()})
    return {"val_loss": weighted, **of_tasks} if of_tasks else {}


def evaluate(
    state: Backend, config: RunConfig, held_out: ValidationData, objective: Objective, task: str | None = None
) -> dict[str, float]:
    """Return ``val_loss``, the mean loss of what is held out; nothing where nothing is.

    Where it is a weighted sum of several losses, also the mean of each; where samples have classes, or tokens are
    judged, also ``val_accuracy`` and ``val_f1``, the mean over the classes. The same samples are read every time: the
    first ``train.eval_batches`` global batches of the held-out split.

    Args:
        state: of this rank.
        config: the run, of several tasks as it would be with this one alone.
        held_out: the samples.
        objective: what is judged.
        task: its name, where there are several.
    """
    feed = Feed(config, state.mesh, held_out, objective)
    size = config.train.global_batch_size
    num_batches = min(config.train.eval_batches, -(-held_out.num_samples // size))
    batch_sizes = [min(size, held_out.num_samples - step * size) for step in range(num_batches)]
    valid, batches = feed.held_out(batch_sizes)
    total = 0.0
    state.model.eval()
    state.mesh.marker.enter("evaluating")
    modules = list(state.model.modules())
    with counted(modules, task) as said_cc, told(modules, state.mesh.device) as losses:
        for microbatches in batches:
            loss = state.evaluate(microbatches).cpu()
            collectives.all_reduce(loss, state.mesh.data, scalar=True)
            total += collectives.all_reduce(loss, state.mesh.pp, scalar=True).item()
    state.model.train()
    if not any(valid):
        return {}
    found = {"val_loss": total}
    if losses:
        sums = torch.stack([each.cpu() for each in losses.values()])
        _over_ranks(state, sums)
        found |= {f"val_loss_{name}": mean for name, mean in means(dict(zip(losses, sums, strict=True))).items()}
    if said_cc is not None and (valid.samples or valid.judged):
        _over_ranks(state, said_cc)
        found |= {"val_accuracy": accuracy(said_cc), "val_f1": macro_f1(said_cc)}
    return found


def _over_ranks(state: Backend, sums: Tensor) -> None:
    """Sum what the ranks have seen, each of its own part, in place."""
    collectives.all_reduce(sums, state.mesh.data, scalar=True)
    collectives.all_reduce(sums, state.mesh.pp, scalar=True)


def accuracy(said_cc: Tensor) -> float:
    """Return the share of the samples of which the class was said, of the counts of ``counted``."""
    return said_cc.diagonal().sum().item() / max(said_cc.sum().item(), 1)


def macro_f1(said_cc: Tensor) -> float:
    """Return the mean F1 of the classes that were there or were said: twice the hits of what was there and was said."""
    both_c = said_cc.sum(0) + said_cc.sum(1)
    seen = both_c > 0
    return float((2 * said_cc.diagonal()[seen].double() / both_c[seen]).mean()) if seen.any() else 0.0
