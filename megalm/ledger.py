"""The account of a run's communication: what was sent over which axis, call by call."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send", "receive", "barrier"]


@dataclass(frozen=True)
class Entry:
    """One collective call.

    Args:
        kind: which collective.
        axis: the mesh axis it ran over.
        dtype: of the payload, as ``float32``.
        payload: bytes of the whole logical tensor of the call: the gathered tensor of an all-gather, the tensor before
            a reduce-scatter.
        scalar: whether it carries a bookkeeping number (a loss, a count, a norm) and no tensor of the model.
        ranks: how many take part; calls are alike without it.
    """

    kind: Kind
    axis: str
    dtype: str
    payload: int
    scalar: bool = False
    ranks: int = field(default=1, compare=False)

    @property
    def volume(self) -> int:
        """Bytes by the field's convention: an all-reduce is a reduce-scatter and an all-gather, so it counts twice."""
        return 2 * self.payload if self.kind == "all_reduce" else self.payload

    @property
    def wire(self) -> int:
        """Bytes that a rank sends if the ranks stand in a ring: what is its own need not come from elsewhere."""
        if self.kind in ("send", "receive"):
            return self.payload if self.kind == "send" else 0
        return self.volume * (self.ranks - 1) // self.ranks


@dataclass
class Ledger:
    """The entries of a run, in the order of the calls. An ``Axis`` without a ledger records nothing and pays nothing.

    Args:
        entries: the calls so far.
        recording: whether further calls are recorded.
    """

    entries: list[Entry] = field(default_factory=list)
    recording: bool = True

    def record(self, entry: Entry) -> None:
        """Add one call, unless the ledger was closed."""
        if self.recording:
            self.entries.append(entry)

    def close(self) -> None:
        """Record nothing from here on; what was recorded stays."""
        self.recording = False

    def volume(self, axis: str | None = None, scalar: bool = False) -> int:
        """Return the summed volume in bytes, of one axis or of all; bookkeeping scalars are summed apart."""
        return sum(entry.volume for entry in self.entries if entry.scalar == scalar and axis in (None, entry.axis))

    def wire(self, axis: str | None = None, scalar: bool = False) -> int:
        """Return the summed bytes that a rank sends in ring form; see ``volume``."""
        return sum(entry.wire for entry in self.entries if entry.scalar == scalar and axis in (None, entry.axis))

    def counts(self) -> Counter[Entry]:
        """Return how often each kind of call was made."""
        return Counter(self.entries)

    def rows(self) -> list[dict[str, object]]:
        """Return one JSON-able row for each distinct call, with its count and the bytes of all of them."""
        return [
            {
                "kind": entry.kind,
                "axis": entry.axis,
                "dtype": entry.dtype,
                "scalar": entry.scalar,
                "calls": calls,
                "payload": entry.payload * calls,
                "volume": entry.volume * calls,
                "wire": entry.wire * calls,
            }
            for entry, calls in self.counts().items()
        ]
