"""How a rank marks where it is. A marker that has no file marks nothing: ranks without a run directory pay nothing."""

import json
import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.watch.lane import LaneWriter, Tally
from megalm.watch.place import (
    BEAT,
    BEAT_FORM,
    CARD,
    FOLDER,
    JOINS,
    LANE_BYTES,
    LANES,
    MOST_CHANNELS,
    NAMES,
    RESTS,
    SIZE,
    end_path,
    path_of,
    signature,
)
from megalm.watch.position import MESSAGE, Channel, End, compact
from megalm.whole_text import replace_text

MOST_AXES = 256


class Marker:
    """Marks nothing; see ``MarkerFile``.

    Attributes:
        rank: whose marker it is.
        launch: to which launch the rank belongs.
    """

    rank = 0
    launch = ""

    @property
    def is_meeting(self) -> bool:
        """Whether this rank waits where ranks meet."""
        return False

    def channel(self, axis: str, ranks: tuple[int, ...], group: str = "") -> "Counted | None":
        """Return what counts the collectives over an axis, with those of all axes in its group; ``None``: nobody."""
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

    def waited_s(self) -> float:
        """Return for how long this rank has waited for others: the thread that waits longest."""
        return 0.0

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
        self.launch, self._on_device = str(card.get("launch", "")), bool(card.get("on_device"))
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
        self._axes: dict[str, int] = {}
        self._tallies: dict[Channel, Tally] = {}
        self._counted: dict[tuple[str, Channel], Counted | None] = {}
        self._training = LaneWriter(self._map, LANES)
        self._lanes: dict[int, LaneWriter] = {}
        self.beat()

    @property
    def is_meeting(self) -> bool:
        """Whether this rank waits where ranks meet."""
        return self._training.is_meeting

    def lane(self) -> "LaneWriter":
        """Return that of the calling thread."""
        return self._lanes.get(threading.get_ident(), self._training) if self._lanes else self._training

    def channel(self, axis: str, ranks: tuple[int, ...], group: str = "") -> "Counted | None":
        """Return what counts the collectives over an axis, with those of all axes in its group.

        ``None`` where the file has no room for one more.
        """
        return self.counted(axis, Channel(ranks, group))

    def counted(self, axis: str, channel: Channel) -> "Counted | None":
        """Return what counts a channel over an axis."""
        key = axis, channel
        if key not in self._counted:
            number, tally = self._axis(axis), self._tally(channel)
            self._counted[key] = (
                None if number is None or tally is None else Counted(self, channel, axis, number, tally)
            )
        return self._counted[key]

    def _axis(self, axis: str) -> int | None:
        if axis not in self._axes and len(self._axes) < MOST_AXES and self._add_line(axis):
            self._axes[axis] = len(self._axes)
        return self._axes.get(axis)

    def _tally(self, channel: Channel) -> "Tally | None":
        line = [compact(channel.ranks), channel.group, channel.messages]
        if channel not in self._tallies and len(self._tallies) < MOST_CHANNELS and self._add_line(line):
            self._tallies[channel] = Tally(self._map, len(self._tallies))
        return self._tallies.get(channel)

    def _add_line(self, content: object) -> bool:
        """Add a line of JSON to the file's last part; return whether it had room."""
        line = json.dumps(content).encode() + b"\n"
        if self._names_end + len(line) > SIZE:
            return False
        self._map[self._names_end : self._names_end + len(line)] = line
        self._names_end += len(line)
        return True

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

    def waited_s(self) -> float:
        """Return for how long this rank has waited for others: the thread that waits longest."""
        return max(lane.waited_s(self._on_device) for lane in [self._training, *self._lanes.values()])

    def beat(self) -> None:
        """Show that the process runs."""
        self._beats += 1
        BEAT_FORM.pack_into(self._map, BEAT, self._beats, time.time(), self._step)

    def flush(self) -> None:
        """Hand the file to the disk, for the machines that share it."""
        with suppress(OSError):
            self._map.flush()

    def ends(self, end: End) -> None:
        """Say how this rank ends; the first word counts. Nothing here can fail the run."""
        path = end_path(self._run_dir, self.rank)
        try:
            if not path.exists():
                replace_text(path, json.dumps(asdict(end)))
            self.flush()
        except OSError:  # no space: the position itself still tells
            return

    def remove(self) -> None:
        """Take the position away: the run is over for all ranks, and nobody will ask."""
        path = path_of(self._run_dir, self.rank)
        with suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # by the last one


class Counted:
    """The collectives over one axis, as this rank counts them."""

    def __init__(self, marker: MarkerFile, channel: Channel, axis: str, axis_number: int, tally: Tally) -> None:
        """See the class."""
        self._marker, self._channel, self._axis, self._axis_number = marker, channel, axis, axis_number
        self._tally = tally
        self._messages: dict[tuple[int, int], Counted | None] = {}

    def begin(self, kind: str, payload: int = 0) -> "Begun":
        """Count a collective that this rank begins."""
        signed = signature(self._axis_number, kind, payload)
        return Begun(self._marker, self._tally.index, self._tally.count(signed), signed)

    def message(self, source: int, to: int, payload: int) -> "Begun | None":
        """Count a message between two ranks, which one of them begins to send or to receive."""
        key = source, to
        if key not in self._messages:
            self._messages[key] = self._marker.counted(self._axis, Channel(key, self._channel.group, messages=True))
        counted = self._messages[key]
        return None if counted is None else counted.begin(MESSAGE, payload)

    def beside(self, axis: str) -> "Counted | None":
        """Return what counts the collectives of the same ranks in a group of their own."""
        return self._marker.channel(axis, self._channel.ranks, group=axis)


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
    """Take away what an earlier start left, but for the ranks that a run of ``world_size`` has: they do it."""
    folder = run_dir / FOLDER
    try:
        for path in folder.iterdir():
            number = path.name.partition(".")[0]
            if not number.isdecimal() or int(number) >= world_size:
                path.unlink(missing_ok=True)
    except OSError:  # nothing is there, or another rank was faster
        return
