"""Oracle: the handlers that were there before, and the signals that were sent."""

import os
import signal
from types import FrameType

import pytest

from megalm.launcher.signals import HANDED_ON, heard_by


def test_signals_are_heard_inside_and_given_back_after_an_error_too() -> None:
    heard: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.getsignal(number) for number in HANDED_ON}
    with heard_by(receive):
        for number in HANDED_ON:
            os.kill(os.getpid(), number)
    with pytest.raises(ZeroDivisionError), heard_by(receive):
        raise ZeroDivisionError
    assert heard == list(HANDED_ON)
    assert {number: signal.getsignal(number) for number in HANDED_ON} == before


def test_only_the_named_signals_are_heard() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with heard_by(lambda number, frame: None, [signal.SIGUSR2]):
        assert signal.getsignal(signal.SIGTERM) is before
