"""The file in which a rank keeps its position: ``RUN_DIR/ranks/00003``, mapped into memory.

What is written there survives ``kill -9`` and can be read while the process is stopped. It has four parts: who the rank
is, as JSON; what its threads do; how far it is on each channel; and channels and axes, a line of JSON each. Numbers are
written with a counter before and after, so that a reader sees whether it came in the middle of a change.
"""

import json
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from megalm.watch.position import KINDS, Call, Channel, End, Lane, Position, expand

FOLDER = "ranks"
SIZE = 8192
CARD, BEAT, LANES, COUNTS, NAMES = 0, 1024, 1088, 1536, 3072
"""Where the parts begin."""

BEAT_FORM = struct.Struct("=Qdq")
"""Beats, Unix time of the last one, and the step."""
LANE_FORM = struct.Struct("=QdBqQQ48sQ")
"""Counter, since, state, channel, number, signature, what is done, counter again."""
LANE_BYTES, NUM_LANES = 112, 2
RUNS, WAITS, JOINS, RESTS = range(4)
"""States of a lane."""
COUNT_FORM = struct.Struct("=QQQ")
"""The newest collective of a channel: number, signature, number again."""
MOST_CHANNELS = (NAMES - COUNTS) // COUNT_FORM.size
DOING_BYTES = 48
TRIES, PAUSE_S = 5, 0.0005


def signature(axis: int, kind: str, payload: int) -> int:
    """Return a number for the axis, by its place among the axes of the file, the kind and the payload."""
    return KINDS.index(kind) | axis << 4 | payload << 12


def path_of(run_dir: Path, rank: int) -> Path:
    """Return the file of a rank."""
    return run_dir / FOLDER / f"{rank:05d}"


def end_path(run_dir: Path, rank: int) -> Path:
    """Return the file in which a rank says how it ended."""
    return run_dir / FOLDER / f"{rank:05d}.end"


def read_positions(run_dir: Path) -> dict[int, Position]:
    """Return where every rank of a run's newest launch is, or was when it ended; none where nothing is kept.

    Files that cannot be read, or are half there, are left out: this is asked when things have gone wrong.
    """
    found = [read_position(run_dir, int(path.name)) for path in _files(run_dir)]
    known = [position for position in found if position is not None]
    newest = max(known, key=lambda position: position.started, default=None)
    return {position.rank: position for position in known if newest and position.launch == newest.launch}


def _files(run_dir: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(path for path in (run_dir / FOLDER).iterdir() if path.name.isdecimal())


def read_position(run_dir: Path, rank: int) -> Position | None:
    """Return where one rank is, or ``None`` where that cannot be read."""
    path = path_of(run_dir, rank)
    try:
        with path.open("rb") as file:

            def again() -> bytes:
                file.seek(0)
                return file.read(SIZE)

            return _position(again, _read_end(end_path(run_dir, rank)))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _read_end(path: Path) -> End | None:
    with suppress(OSError, ValueError, TypeError):
        return End(**json.loads(path.read_text()))
    return None


def _position(read: Callable[[], bytes], end: End | None) -> Position:
    data = read()
    card: dict[str, Any] = json.loads(data[CARD:BEAT].rstrip(b"\0"))
    for _ in range(TRIES):
        if _is_settled(data):
            break
        time.sleep(PAUSE_S)
        data = read()
    names = data[NAMES:].rstrip(b"\0").splitlines()
    lines = [json.loads(line) for line in names]
    axes = [line for line in lines if isinstance(line, str)]
    channels = [Channel(expand(line[0]), *line[1:]) for line in lines if isinstance(line, list)]
    begun: dict[Channel, Call] = {}
    for index, channel in enumerate(channels):
        number, signed, _ = COUNT_FORM.unpack_from(data, COUNTS + index * COUNT_FORM.size)
        if number:
            begun[channel] = _call(channel, number, signed, axes)
    lanes = [
        lane
        for index in range(NUM_LANES)
        if (lane := _lane(data, LANES + index * LANE_BYTES, channels, axes)) is not None
    ]
    beats, beat_s, step = BEAT_FORM.unpack_from(data, BEAT)
    return Position(**card, step=step, lanes=lanes, begun=begun, beats=beats, beat_s=beat_s, end=end)


def _is_settled(data: bytes) -> bool:
    for index in range(NUM_LANES):
        first, *_, last = LANE_FORM.unpack_from(data, LANES + index * LANE_BYTES)
        if first != last:
            return False
    return all(first == last for first, _, last in COUNT_FORM.iter_unpack(data[COUNTS:NAMES]))


def _lane(data: bytes, offset: int, channels: list[Channel], axes: list[str]) -> Lane | None:
    count, since, state, index, number, signed, doing, _ = LANE_FORM.unpack_from(data, offset)
    if not count or state == RESTS:
        return None
    waits = None
    if state == WAITS and 0 <= index < len(channels):
        waits = _call(channels[index], number, signed, axes)
    return Lane(doing.rstrip(b"\0").decode(errors="replace"), since, waits, joins=state == JOINS)


def _call(channel: Channel, number: int, signed: int, axes: list[str]) -> Call:
    axis = signed >> 4 & 255
    return Call(channel, number, axes[axis] if axis < len(axes) else "?", KINDS[signed & 15], signed >> 12)
