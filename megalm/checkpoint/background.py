"""Work beside training, one piece at a time."""

import threading
from collections.abc import Callable

from megalm.watch.marker import Marker


class Background:
    """One thread at a time; what it raises is raised where it is waited for.

    The thread is a daemon: a rank that must end does not wait for a save that other ranks will never finish.
    """

    def __init__(self, marker: Marker) -> None:
        self._marker = marker
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; whoever began before was waited for."""
        assert self._thread is None

        def guarded() -> None:
            try:
                with self._marker.beside("saving"):
                    work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=guarded, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when the work is done, at once if there is none; raise, once, what it raised."""
        if self._thread is None:
            return
        with self._marker.joining():
            self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
