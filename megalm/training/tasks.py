"""What a run learns together: each task with its objective and its data, and the micro-batches of all.

Every micro-batch is of one task. Each global batch has the same number of samples of a task, so its position in the
task's data is a pure function of the step; and losses are sums over samples, each divided by what its task has in the
global batch and multiplied by the task's weight, so the cut into micro-batches and over ranks changes nothing. That is
hard parameter sharing (Caruana 1997): the trunk sees all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows, TrainingData, ValidationData, check_tokenizers
from megalm.data.order import Place
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.feed import Feed, Objective, Source, cut_of, objective_of, to_device

Data = TypeVar("Data", TrainingData, ValidationData)


@dataclass(frozen=True)
class Task:
    """One task of a run; a run with one objective is one task without a name.

    Args:
        name: of the task.
        config: the run as it would be if the task were all of it.
        weight: what the task's mean loss counts.
        objective: makes micro-batches of samples; they carry the task's name.
        first: how many samples of each global batch come before the task's.
        together: the samples of a global batch, of all tasks.
    """

    name: str | None
    config: RunConfig
    weight: float
    objective: Objective
    first: int
    together: int

    @property
    def samples(self) -> int:
        """How many samples of each global batch are the task's."""
        return self.config.train.global_batch_size

    def training_data(self) -> TrainingData:
        """Open what the task is learned from; see ``TrainingData``."""
        return self._open(TrainingData)

    def held_out(self) -> ValidationData:
        """Open what the task is judged on; see ``ValidationData``."""
        return self._open(ValidationData)

    def weighted(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        """Return the micro-batch of some rows, with the task's weight."""
        return self.objective(rows, reset_attention=reset_attention).scaled(self.weight)

    def _open(self, data: Callable[..., Data]) -> Data:
        with _told(self.name):
            return data(
                self.config.data,
                seq_length=self.config.train.seq_length,
                global_batch_size=self.samples,
                vocab_size=self.config.model.vocab_size,
                seed=self.config.run.seed,
                cut=cut_of(self.config),
            )


def tasks_of(config: RunConfig) -> list[Task]:
    """Return the tasks of a run.

    Raises:
        UserError: an objective is not known, or does not go with the data's tokenizer.
    """
    together = config.train.global_batch_size
    if config.objective.tasks is None:
        return [Task(None, config, 1.0, objective_of(config), 0, together)]
    check_tokenizers(*config.sources)
    found: list[Task] = []
    for task in config.objective.tasks:
        alone = config.of_task(task)
        with _told(task.name):
            objective = _Named(task.name, objective_of(alone))
        found.append(Task(task.name, alone, task.weight, objective, sum(each.samples for each in found), together))
    return found


class TaskFeed:
    """The micro-batches of all tasks of a run.

    Args:
        tasks: of the run.
        sources: the samples of each.
        mesh: this rank's axes.
        penalty: what the squared differences between the tasks' models count, where each has its own.
    """

    def __init__(
        self, tasks: Sequence[Task], sources: Sequence[Source], mesh: Mesh, penalty: float | None = None
    ) -> None:
        """See the class."""
        self._apart: list[MicroBatch] = []
        if penalty is not None:  # each data rank adds its share, and what all add is the penalty
            one = torch.zeros(1, 1, dtype=torch.int64)
            apart = MicroBatch(one, one + IGNORED, one, one - 1, penalty / mesh.data.size)
            self._apart.append(to_device(apart, mesh.device))
        self._feeds = [
            Feed(task.config, mesh, _Numbered(source, task), task.weighted)
            for task, source in zip(tasks, sources, strict=True)
        ]

    def training_step(self, step: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of a 0-based step, task by task."""
        return [*(microbatch for feed in self._feeds for microbatch in feed.training_step(step)), *self._apart]


def place_of(sample: int, tasks: Sequence[Task], sources: Sequence[TrainingData]) -> Place:
    """Return where a sample of the run lies; the corpora of all tasks are counted on.

    Args:
        sample: its number, as a ``TaskFeed`` counts.
        tasks: of the run.
        sources: the samples of each.
    """
    step, at = divmod(sample, tasks[0].together)
    number = max(number for number, task in enumerate(tasks) if task.first <= at)
    task = tasks[number]
    found = sources[number].place(step * task.samples + at - task.first)
    return replace(found, corpus=found.corpus + sum(len(before.config.data.train) for before in tasks[:number]))


@dataclass(frozen=True)
class _Numbered:
    """The samples of a task under numbers that no other sample of the run has: draws are named by them."""

    source: Source
    task: Task

    def rows(self, step: int, first: int, count: int) -> Rows:
        start = step * self.task.together + self.task.first + first
        return replace(self.source.rows(step, first, count), samples_b=np.arange(start, start + count))


@dataclass(frozen=True)
class _Named:
    """An objective whose micro-batches say of which task they are."""

    name: str
    objective: Objective

    def __call__(self, rows: Rows, *, reset_attention: bool) -> MicroBatch:
        return replace(self.objective(rows, reset_attention=reset_attention), task=self.name)


@contextmanager
def _told(name: str | None) -> Iterator[None]:
    """Say of which task it is that something is wrong."""
    try:
        yield
    except UserError as error:
        if name is None:
            raise
        raise UserError(f"task {name}: {error}") from error
