"""What of a trained run is used by itself: its model, or that of one of its tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from megalm.errors import UserError
from megalm.run_config import RunConfig

SAMPLE_HEAD = "score."
"""What the names of a head for whole samples begin with, of a model that has no other head."""


@dataclass(frozen=True)
class Chosen:
    """A model out of a trained run.

    Args:
        config: the run; where a task was chosen, as it would be with that one alone.
        lies_at: what the names of the model's tensors begin with, and what they begin with in the run's checkpoints.
        left_out: tasks whose own heads the model has not got when it is all that there is.
    """

    config: RunConfig
    lies_at: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def saved(self, name: str) -> str:
        """Return the name that a tensor of the model has in the run's checkpoints."""
        for here, there in self.lies_at.items():
            if name.startswith(here):
                return there + name.removeprefix(here)
        return name


def choose(config: RunConfig, task: str | None = None) -> Chosen:
    """Choose the model of a run; of several tasks what is shared with the head for tokens, or that of one task.

    Args:
        config: the run that was trained.
        task: a name. With soft sharing its own model is meant, else what is shared with the task's own head.

    Raises:
        UserError: there is no such task, or one must be named.
    """
    tasks = {each.name: each for each in config.objective.tasks or []}
    names = ", ".join(tasks)
    if not tasks and task is not None:
        raise UserError(f"--task {task} has no effect: the run learned one objective; remove it.")
    if task is not None and task not in tasks:
        raise UserError(f"--task {task} is none of the run's; choose one of {names}.")
    soft, heads = config.objective.sharing == "soft", config.objective.num_labels
    if task is not None:
        lies_at = {"": f"towers.task_{task}."} if soft else {SAMPLE_HEAD: f"task_heads.task_{task}."}
        return Chosen(config.of_task(tasks[task]), lies_at, tuple(name for name in heads if name != task))
    if soft:
        raise UserError(f"each task of the run has a model of its own; name one of them with --task: {names}.")
    if tasks and len(heads) == len(tasks):
        raise UserError(
            f"all tasks of the run classify, and none has learned to say tokens; name one with --task: {names}."
        )
    return Chosen(config, {}, tuple(heads))
