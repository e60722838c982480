"""A user's own data whose reading goes wrong on one rank, at one step, and a model that is slow there."""

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from examples.own_model import build
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.training.stop import Stop
from tests.verify.runs import RandomWindows

STEP = 4
SLOW_S = 0.1
SICK_RANK = "1"
READS_PER_STEP = 2
ASLEEP_S = 600.0
PACE_S = 0.02
"""Of each read: runs that wait for their fault leave the machine to others."""


class Faulty(RandomWindows):
    """Random windows that count the steps by the batches of this rank."""

    def __init__(self, seq_length: int, seed: int, fault: str, pace_s: float = PACE_S) -> None:
        super().__init__(seq_length, seed)
        self.reads, self.fault, self.pace_s = 0, fault, pace_s

    def __getitem__(self, index: int, /) -> NDArray[np.int64]:
        self.reads += 1
        time.sleep(self.pace_s)
        if os.environ["RANK"] == SICK_RANK and self.reads == STEP * READS_PER_STEP:
            getattr(self, self.fault)()
        return super().__getitem__(index)

    def sleep(self) -> None:
        print("reading from a disk that is gone", flush=True)
        time.sleep(ASLEEP_S)

    def nothing(self) -> None:
        pass

    def fail(self) -> None:
        raise ValueError("a sample that cannot be read")

    def leave_out(self) -> None:
        """From here on this rank does not ask the others whether the run is to end."""
        agreed: Any = lambda stop, world: None  # noqa: E731
        Stop.agreed = agreed  # type: ignore[method-assign]


def asleep(seq_length: int, seed: int) -> RandomWindows:
    return Faulty(seq_length, seed, "sleep")


def failing(seq_length: int, seed: int) -> RandomWindows:
    return Faulty(seq_length, seed, "fail")


def out_of_step(seq_length: int, seed: int) -> RandomWindows:
    return Faulty(seq_length, seed, "leave_out")


def healthy(seq_length: int, seed: int) -> RandomWindows:
    return Faulty(seq_length, seed, "nothing")


def slow(seq_length: int, seed: int) -> RandomWindows:
    return Faulty(seq_length, seed, "nothing", pace_s=SLOW_S if os.environ.get("RANK") == SICK_RANK else 0.0)


def slow_to_compute(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    model = build(config, axis, sequence_parallel)
    if os.environ.get("RANK") == SICK_RANK:
        model.get_submodule("mixers.0").register_forward_pre_hook(lambda *_: time.sleep(SLOW_S))
    return model
