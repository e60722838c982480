"""What changes often in a rank's file: what a thread does or waits in, and how far the rank is on a channel."""

import mmap
import time
from collections import defaultdict

from megalm.watch.place import COUNT_FORM, COUNTS, DOING_BYTES, LANE_FORM, RUNS, WAITS
from megalm.watch.position import KINDS

ON_DEVICE = ("forward and backward", "last gradient sums", "last sends", "clipping", "summing the loss", "update")
"""What a step consists of beside the actions of its program."""
RENDEZVOUS = KINDS.index("rendezvous")
"""Where ranks meet they wait by the meeting's own clock, which says where they meet."""
MOST_WORDS = 100_000
"""Actions whose names are remembered; a program of one rank has fewer."""


class LaneWriter:
    """What one thread does, in the file."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        """See the class."""
        self._map, self._offset = memory, offset
        self._clock = time.monotonic
        self._unix = time.time() - time.monotonic()
        self._count = 0
        self._words: dict[object, tuple[bytes, str]] = {}
        self._word, self._kind = b"", "starting"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._entered = self._clock()
        self._waited = 0.0
        self.waiting_since: float | None = None
        self.is_meeting = False
        self.write(RUNS)

    def enter(self, doing: object) -> None:
        """Begin something: the time of what was done so far is added up by its kind."""
        now = self._clock()
        self._seconds[self._kind] += now - self._entered - self._waited
        self._entered, self._waited = now, 0.0
        found = self._words.get(doing)
        if found is None:
            found = self._name(doing)
        self._word, self._kind = found
        self.write(RUNS)

    def _name(self, doing: object) -> tuple[bytes, str]:
        text = str(doing)
        found = text.encode()[:DOING_BYTES], text.partition("/")[0].rstrip("0123456789")
        if len(self._words) < MOST_WORDS:
            self._words[doing] = found
        return found

    def wait(self, index: int, number: int, signed: int) -> None:
        """Begin to wait in a collective."""
        self.is_meeting = signed & 15 == RENDEZVOUS
        self.waiting_since = self._clock()
        self.write(WAITS, index, number, signed)

    def waited_s(self, on_device: bool) -> float:
        """Return for how long it has waited; one whose GPU works for it waits in whatever it does with that."""
        since = self.waiting_since
        if since is not None and self.is_meeting:
            return 0.0
        if since is None and on_device and (self._kind[:1].isdigit() or self._kind in ON_DEVICE):
            since = self._entered
        return 0.0 if since is None else self._clock() - since

    def go_on(self) -> None:
        """Wait no longer. What raises instead leaves the wait in the file: that is where the rank ended."""
        if self.waiting_since is not None:
            waited = self._clock() - self.waiting_since
            self._waited += waited
            self.is_meeting = False
            self._seconds["waiting"] += waited
            self.waiting_since = None
        self.write(RUNS)

    def write(self, state: int, index: int = -1, number: int = 0, signed: int = 0) -> None:
        """Write all of it."""
        self._count = count = self._count + 1
        LANE_FORM.pack_into(
            self._map,
            self._offset,
            count,
            self._unix + self._clock(),
            state,
            index,
            number,
            signed,
            self._word,
            count,
        )

    def kinds_end(self) -> None:
        """Add up the time of what is done now, which goes on."""
        now = self._clock()
        self._seconds[self._kind] += now - self._entered - self._waited
        self._entered, self._waited = now, 0.0

    def take_seconds(self) -> dict[str, float]:
        """Return what was added up, and begin anew."""
        self.kinds_end()
        seconds, self._seconds = self._seconds, defaultdict(float)
        return seconds


class Tally:
    """How many collectives of a channel this rank has begun, in the file."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        """See the class."""
        self.index, self._map, self._offset = index, memory, COUNTS + index * COUNT_FORM.size
        self._number = 0

    def count(self, signed: int) -> int:
        """Count one more, and return its number."""
        self._number = number = self._number + 1
        COUNT_FORM.pack_into(self._map, self._offset, number, signed, number)
        return number
