"""The signals that a launcher hears for its ranks."""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def heard_by(receive: "signal._HANDLER", numbers: Iterable[int] = HANDED_ON) -> Iterator[None]:
    """Have a function handle signals as long as the context is open; only the main thread may.

    Args:
        receive: is called with the number, as a handler is.
        numbers: of the signals.
    """
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
