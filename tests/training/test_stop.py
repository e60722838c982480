"""Oracle: the signals that were sent, a clock that is set by hand, and what every rank is told."""

import os
import signal
from collections.abc import Iterator

import pytest

from megalm.layout import Layout
from megalm.mesh import Axis, Mesh
from megalm.training.stop import Stop
from tests.ranks import RankContext, RankPool


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """Let SIGUSR1 be heard by a handler, and give it back to the system at the end."""
    found: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: found.append(number))
    yield found
    signal.signal(signal.SIGUSR1, before)


def test_only_named_signals_ask_and_their_handlers_come_back(heard: list[int]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Stop(["SIGUSR1"]) as stop:
        assert stop.reason() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.reason() == "SIGUSR1"
        assert stop.agreed(Axis.alone()) == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == before
    assert heard == []


@pytest.mark.usefixtures("heard")
def test_a_rank_that_has_ended_as_asked_does_not_die_of_being_asked_late() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    with Stop(["SIGUSR1"]):
        pass
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    with Stop(["SIGUSR1"], deadline_s=0.0) as stop:
        assert stop.agreed(Axis.alone()) == "the job's time limit"
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(("now", "asks"), [(99.0, False), (100.0, True), (250.0, True)])
def test_the_deadline_asks(now: float, asks: bool) -> None:
    reason = Stop([], 100.0, now=lambda: now).reason()
    assert reason == ("the job's time limit" if asks else None)


def told(context: RankContext, asked_rank: int) -> list[str | None]:
    """Return what a rank is told before one of them is asked, and after."""
    mesh = Mesh.build(Layout(dp=3), timeout_s=30)
    with Stop(["SIGUSR2"]) as stop:
        found = [stop.agreed(mesh.world)]
        if context.rank == asked_rank:
            os.kill(os.getpid(), signal.SIGUSR2)
        return [*found, stop.agreed(mesh.world)]


@pytest.mark.parametrize("asked_rank", [0, 2])
def test_what_one_rank_is_asked_all_do(ranks: RankPool, asked_rank: int) -> None:
    assert ranks.run(3, told, asked_rank) == [[None, "SIGUSR2"]] * 3
