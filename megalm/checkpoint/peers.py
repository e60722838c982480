"""All ranks of a run, agreeing about what lies on the disk: checkpoints above all."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from megalm.collectives import gather_objects
from megalm.errors import LostRank, TrainingError, UserError
from megalm.mesh import Axis

T = TypeVar("T")


class Peers:
    """The ranks of ``world`` over a group of their own.

    A save talks from a background thread while training talks over its own groups; a shared group would mix the two.
    The group is gloo wherever the tensors live, and no ledger counts it: it is no part of a step. When a rank ends, its
    connections close and the others are told at once; when one hangs, they wait ``timeout_s``.

    Args:
        world: all ranks, which make the group at the same time.
        timeout_s: how long one waits for the slowest other one.
        subject: what they work on, for messages.
    """

    def __init__(self, world: Axis, timeout_s: float, subject: str = "a checkpoint") -> None:
        """See the class."""
        self._subject = subject
        self._axis = Axis.alone("checkpoint")
        if world.size > 1:
            group = dist.new_group(
                list(world.ranks),
                timeout=timedelta(seconds=timeout_s),
                backend="gloo",
                use_local_synchronization=True,
            )
            channel = None if world.channel is None else world.channel.beside("checkpoint")
            self._axis = Axis("checkpoint", world.ranks, world.rank, group, channel=channel)
        self.rank = self._axis.rank
        self.size = self._axis.size

    @property
    def first(self) -> bool:
        """Whether this rank does what one of them does for all."""
        return self.rank == 0

    def together(self, work: Callable[[], T]) -> list[T]:
        """Run ``work`` on every rank and return its JSON-able answers by rank; if it fails on one, all of them raise.

        Raises:
            UserError: what ``work`` raised on one rank; every rank raises the same.
            TrainingError: another rank failed otherwise. A rank whose own ``work`` failed otherwise raises that.
            LostRank: another rank ended, or did not answer.
        """
        own_error: Exception | None = None
        answer: dict[str, Any] = {}
        try:
            answer["value"] = work()
        except UserError as error:
            answer["refused"] = str(error)
        except Exception as error:
            own_error = error
            answer["failed"] = f"{type(error).__name__}: {error}"
        try:
            answers = gather_objects(answer, self._axis)
        except LostRank as error:
            raise own_error or LostRank(
                f"rank {self._axis.ranks[self.rank]} lost another rank while they worked on {self._subject}; it "
                "ended, or did not answer in time."
            ) from error
        if own_error is not None:
            raise own_error
        for rank, other in zip(self._axis.ranks, answers, strict=True):
            if "failed" in other:
                raise TrainingError(f"rank {rank} failed while the ranks worked on {self._subject}: {other['failed']}")
        for other in answers:
            if "refused" in other:
                raise UserError(other["refused"])
        return [other["value"] for other in answers]
