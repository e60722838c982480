"""How a rank marks where it is. A marker that has no file marks nothing: ranks without a run directory pay nothing."""

import json
import mmap
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.watch.place import (
    BEAT,
    BEAT_FORM,
    CARD,
    COUNT_FORM,
    COUNTS,
    DOING_BYTES,
    FOLDER,
    JOINS,
    LANE_BYTES,
    LANE_FORM,
    LANES,
    MOST_CHANNELS,
    NAMES,
    RESTS,
    RUNS,
    SIZE,
    WAITS,
    end_path,
    path_of,
    signature,
)
from megalm.watch.position import MESSAGE, Channel, End, compact

MOST_WORDS = 100_000
"""Actions whose names are remembered; a program of one rank has fewer."""


class Marker:
    """Marks nothing; see ``MarkerFile``."""

    def channel(self, axis: str, ranks: tuple[int, ...], *, messages: bool = False) -> "Counted | None":
        """Return what counts the collectives of a channel; ``None`` where nobody counts."""
        return None

    def step(self, step: int) -> None:
        """Begin a step, counted from 1."""

    def enter(self, doing: object) -> None:
        """Begin an action of the program, or something else in a few words."""

    @contextmanager
    def beside(self, doing: str) -> Iterator[None]:
        """Mark what the calling thread does beside training."""
        yield

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Mark that training waits for what is done beside it."""
        yield

    def seconds(self) -> dict[str, float]:
        """Return the seconds that training has spent by kind of action, and ``waiting``, since the last call."""
        return {}

    def beat(self) -> None:
        """Show that the process runs."""

    def flush(self) -> None:
        """Hand the file to the disk, for the machines that share it."""

    def ends(self, end: End) -> None:
        """Say how this rank ends; the first word counts. Nothing here can fail the run."""

    def remove(self) -> None:
        """Take the position away: the run is over for all ranks, and nobody will ask."""


class MarkerFile(Marker):
    """One rank's position in its file.

    Args:
        run_dir: the run's directory.
        card: who the rank is: the fields of a ``Position`` that do not change.

    Raises:
        UserError: the file cannot be made.
    """

    def __init__(self, run_dir: Path, **card: Any) -> None:
        """See the class."""
        self._run_dir, self.rank = run_dir, int(card["rank"])
        path = path_of(run_dir, self.rank)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            end_path(run_dir, self.rank).unlink(missing_ok=True)
            with path.open("w+b") as file:
                file.write(json.dumps(card).encode()[: BEAT - CARD].ljust(SIZE, b"\0"))  # so that no page lacks disk
                file.flush()
                self._map = mmap.mmap(file.fileno(), SIZE)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror}); mend that or choose another run.dir."
            ) from error
        self._step, self._beats = 0, 0
        self._names_end = NAMES
        self._channels: dict[Channel, Counted | None] = {}
        self._training = LaneWriter(self._map, LANES)
        self._lanes: dict[int, LaneWriter] = {}
        self.beat()

    @property
    def lanes(self) -> "list[LaneWriter]":
        """What the rank's threads do: training first."""
        return [self._training, *self._lanes.values()]

    def lane(self) -> "LaneWriter":
        """Return that of the calling thread."""
        return self._lanes.get(threading.get_ident(), self._training) if self._lanes else self._training

    def channel(self, axis: str, ranks: tuple[int, ...], *, messages: bool = False) -> "Counted | None":
        """Return what counts the collectives of a channel; ``None`` where the file has no room for one more."""
        channel = Channel(axis, ranks, messages)
        if channel not in self._channels:
            self._channels[channel] = self._new(channel)
        return self._channels[channel]

    def _new(self, channel: Channel) -> "Counted | None":
        line = json.dumps([channel.axis, compact(channel.ranks), channel.messages]).encode() + b"\n"
        index = sum(counted is not None for counted in self._channels.values())
        if index >= MOST_CHANNELS or self._names_end + len(line) > SIZE:
            return None
        self._map[self._names_end : self._names_end + len(line)] = line
        self._names_end += len(line)
        return Counted(self, channel, index, self._map)

    def step(self, step: int) -> None:
        """Begin a step, counted from 1."""
        self._step = step
        self._training.kinds_end()
        BEAT_FORM.pack_into(self._map, BEAT, self._beats, time.time(), step)

    def enter(self, doing: object) -> None:
        """Begin an action of the program, or something else in a few words."""
        self._training.enter(doing)

    @contextmanager
    def beside(self, doing: str) -> Iterator[None]:
        """Mark what the calling thread does beside training."""
        lane = self._lanes[threading.get_ident()] = LaneWriter(self._map, LANES + LANE_BYTES)
        lane.enter(doing)
        try:
            yield
        finally:
            lane.write(RESTS)
            self._lanes.pop(threading.get_ident(), None)

    @contextmanager
    def joining(self) -> Iterator[None]:
        """Mark that training waits for what is done beside it."""
        self._training.write(JOINS)
        yield
        self._training.go_on()

    def seconds(self) -> dict[str, float]:
        """Return the seconds that training has spent by kind of action, and ``waiting``, since the last call."""
        return self._training.take_seconds()

    def beat(self) -> None:
        """Show that the process runs."""
        self._beats += 1
        BEAT_FORM.pack_into(self._map, BEAT, self._beats, time.time(), self._step)

    def flush(self) -> None:
        """Hand the file to the disk, for the machines that share it."""
        self._map.flush()

    def ends(self, end: End) -> None:
        """Say how this rank ends; the first word counts. Nothing here can fail the run."""
        path = end_path(self._run_dir, self.rank)
        try:
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(asdict(end)))
            if not path.exists():
                draft.replace(path)
            self.flush()
        except OSError:  # no space: the position itself still tells
            return

    def remove(self) -> None:
        """Take the position away: the run is over for all ranks, and nobody will ask."""
        path = path_of(self._run_dir, self.rank)
        with suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # by the last one


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
        self.waiting_since = self._clock()
        self.write(WAITS, index, number, signed)

    def go_on(self) -> None:
        """Wait no longer. What raises instead leaves the wait in the file: that is where the rank ended."""
        if self.waiting_since is not None:
            waited = self._clock() - self.waiting_since
            self._waited += waited
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


class Counted:
    """A channel as this rank counts it."""

    def __init__(self, marker: MarkerFile, channel: Channel, index: int, memory: mmap.mmap) -> None:
        """See the class."""
        self._marker, self._channel, self._index, self._map = marker, channel, index, memory
        self._number, self._offset = 0, COUNTS + index * COUNT_FORM.size
        self._messages: dict[tuple[int, int], Counted | None] = {}

    def begin(self, kind: str, payload: int = 0) -> "Begun":
        """Count a collective that this rank begins."""
        self._number = number = self._number + 1
        signed = signature(kind, payload)
        COUNT_FORM.pack_into(self._map, self._offset, number, signed, number)
        return Begun(self._marker, self._index, number, signed)

    def message(self, source: int, to: int, payload: int) -> "Begun | None":
        """Count a message between two ranks, which one of them begins to send or to receive."""
        key = source, to
        if key not in self._messages:
            self._messages[key] = self._marker.channel(self._channel.axis, key, messages=True)
        counted = self._messages[key]
        return None if counted is None else counted.begin(MESSAGE, payload)

    def beside(self, axis: str) -> "Counted | None":
        """Return the channel of the same ranks over another axis."""
        return self._marker.channel(axis, self._channel.ranks)


class Begun:
    """A collective that this rank has begun, and may wait for."""

    __slots__ = ("_index", "_lane", "_marker", "_number", "_signed")

    def __init__(self, marker: MarkerFile, index: int, number: int, signed: int) -> None:
        """See the class."""
        self._marker, self._index, self._number, self._signed = marker, index, number, signed

    def wait(self) -> None:
        """Mark that the calling thread waits for it."""
        self._lane = self._marker.lane()
        self._lane.wait(self._index, self._number, self._signed)

    def done(self) -> None:
        """Mark that it waits no longer."""
        self._lane.go_on()


def clear_positions(run_dir: Path, world_size: int = 0) -> None:
    """Take away what ranks of an earlier start left: those that a run of ``world_size`` ranks does not have."""
    folder = run_dir / FOLDER
    try:
        for path in folder.iterdir():
            number = path.name.partition(".")[0]
            if number.isdecimal() and int(number) >= world_size:
                path.unlink(missing_ok=True)
    except OSError:  # nothing is there, or another rank was faster
        return
