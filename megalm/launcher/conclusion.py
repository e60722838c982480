"""How a run ended, judged from how each of its ranks ended: which of them is the cause, and what is said once."""

import signal
from collections.abc import Sequence
from typing import NamedTuple

from megalm.launcher.exit_codes import PREEMPTED, SIGNALLED
from megalm.launcher.look import Seen
from megalm.launcher.verdict import Verdict
from megalm.watch.diagnosis import Fate

KNOWS, KILLED, CRASHED, LOST, LOST_AND_SILENT = range(5)
"""What a rank that ended is, from the likeliest cause on."""


class RankEnd(NamedTuple):
    """How one rank ended.

    Args:
        number: the rank.
        pid: its process id.
        code: its exit code, -n after signal n.
        verdict: what it told of its end.
        ended_s: when, if that was before its launcher ended the ranks; on one clock for all ranks.
        host: where it ran, if ranks run on several machines.
        lines: what it printed last.
    """

    number: int
    pid: int
    code: int
    verdict: Verdict | None
    ended_s: float | None
    host: str | None = None
    lines: Sequence[str] = ()

    @property
    def died(self) -> bool:
        """Whether it has ended otherwise than in order."""
        in_order = self.verdict is not None and self.verdict.kind == "finished"
        return self.code not in (0, PREEMPTED) and not in_order

    @property
    def who(self) -> str:
        """The rank, for messages."""
        return f"rank {self.number} (process {self.pid}{f' on {self.host}' if self.host else ''})"


class Outcome(NamedTuple):
    """How a run ended.

    Args:
        code: 0 when every rank returned 0, 75 when they were preempted and saved, else the code of the rank that failed
            first: 1 for a rank ended by a signal, 128 + n after signal n from outside.
        message: the cause of a failure, told once: a sentence, or the traceback of a crash; else empty.
        asked_to_end: whether the launcher was signalled; then a failure is not mended by starting again.
    """

    code: int
    message: str = ""
    asked_to_end: bool = False


def conclude(
    ranks: Sequence[RankEnd], received: Sequence[int], seen: Seen | None = None, lost: Sequence[str] = ()
) -> Outcome:
    """Return how a run ended.

    Args:
        ranks: all of which it is known; none of a run that was told to end before they had started.
        received: the signals that the launcher got, in order.
        seen: where the ranks were when the first of them ended, if they keep that.
        lost: a sentence for each machine that is out of reach. It is the cause, unless a rank knows another or was
            killed: the ranks elsewhere only see that their neighbours are gone.
    """
    causes = {rank.number: order for rank in ranks if (order := _order(rank)) is not None}
    asked = bool(received)
    if not ranks and not lost:
        return asked_to_end(received)
    if lost and all(order[0] >= CRASHED for order in causes.values()):
        return Outcome(1, "\n".join(lost), asked)
    if causes:
        number = min(causes, key=causes.__getitem__)
        culprit = next(rank for rank in ranks if rank.number == number)
        cause = _cause(culprit, received)
        told = [cause.message, *_who_waited(ranks, culprit)]
        if (
            seen is not None
            and cause.code < SIGNALLED
            and (culprit.verdict is None or culprit.verdict.kind != "refused")
        ):
            told = _with_places(cause.message, culprit, ranks, seen) or told
        return Outcome(cause.code, "\n".join(told), asked)
    codes = [rank.code for rank in ranks]
    return Outcome(next((code for code in codes if code not in (0, PREEMPTED)), max(codes)), "", asked)


def _who_waited(ranks: Sequence[RankEnd], culprit: RankEnd) -> list[str]:
    """Return what each other rank waited for when it found that a rank was gone."""
    verdicts = [rank.verdict for rank in ranks if rank is not culprit]
    return [verdict.text for verdict in verdicts if verdict is not None and verdict.kind == "lost" and verdict.text]


def _how(code: int) -> str:
    why = " (out of memory, or kill -9)" if -code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{why}"


def _with_places(message: str, culprit: RankEnd, ranks: Sequence[RankEnd], seen: Seen) -> list[str]:
    """Return the cause with where the ranks are and who waits on whom; nothing where they keep no positions."""
    killed = [rank for rank in ranks if rank.ended_s is not None and rank.verdict is None and rank.code < 0]
    seen = seen.knowing({rank.number: Fate("dead", _how(rank.code)) for rank in killed})
    diagnosis = seen.diagnosis
    if diagnosis is None or not seen.positions:
        return []
    lost = culprit.verdict is not None and culprit.verdict.kind == "lost"
    headline = [seen.headline(diagnosis)] if lost or diagnosis.cause == "mismatch" else []
    lines = {rank.number: rank.lines for rank in ranks if rank.lines}
    return [*([] if lost else [message]), *headline, *seen.details(diagnosis, lines)]


def _cause(culprit: RankEnd, received: Sequence[int]) -> Outcome:
    verdict = culprit.verdict
    code = verdict.code if verdict is not None else culprit.code
    if received and (code < 0 or (verdict is not None and verdict.kind == "interrupted")):
        return asked_to_end(received)
    if verdict is not None and verdict.kind in ("refused", "lost"):
        message = verdict.text
    elif verdict is not None:
        message = f"{verdict.text.rstrip()}\n{culprit.who} failed; the other ranks were ended."
    elif code < 0:
        message = f"{culprit.who} {_how(code)}; the other ranks were ended too."
    else:
        message = f"{culprit.who} ended with exit code {code}; the other ranks were ended."
    return Outcome(max(code, 1), message)


def asked_to_end(received: Sequence[int]) -> Outcome:
    """Return how a run ended that signals ended before it had saved; the first of them counts."""
    number = received[0]
    message = "interrupted." if number == signal.SIGINT else f"ended by {signal.Signals(number).name}."
    return Outcome(SIGNALLED + number, message, asked_to_end=True)


def _order(rank: RankEnd) -> tuple[int, float] | None:
    """Return a key that is smallest for the cause of all deaths, or None for a rank that is no cause.

    A rank that knows why it ended comes first; then one that was killed and could not tell; a rank that crashed may
    only have seen that a neighbour was gone, and one that lost another has.
    """
    verdict = rank.verdict
    if verdict is not None and verdict.kind in ("refused", "interrupted"):
        return KNOWS, verdict.time_s
    if rank.ended_s is None or not rank.died:
        return None
    if verdict is None and rank.code < 0:
        return KILLED, rank.ended_s
    order = CRASHED if verdict is None or verdict.kind != "lost" else LOST if verdict.text else LOST_AND_SILENT
    return order, verdict.time_s if verdict is not None else rank.ended_s
