"""Oracle: written-out ends of ranks and machines, of which a person knows the cause."""

import pytest

from megalm.launcher.conclusion import RankEnd, conclude
from megalm.launcher.verdict import Verdict

AWAY = "host h2 (ranks 1 to 2) was lost: its connection was closed."


def end(number: int, code: int, ended_s: float | None, verdict: Verdict | None = None) -> RankEnd:
    return RankEnd(number, 100 + number, code, verdict, ended_s, "h1")


CRASHED = end(0, 1, 2.0, Verdict("crashed", 1, "Traceback: connection closed by peer", 2.0))
SAVED = end(0, 75, 2.0, Verdict("finished", 75, "", 2.0))


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([CRASHED], AWAY),
        ([end(0, 1, 2.0, Verdict("lost", 1, "rank 0 waits for rank 2.", 2.0))], AWAY),
        ([end(0, -9, None)], AWAY),
        ([], AWAY),
        ([end(0, -9, 1.0)], "rank 0 (process 100 on h1) was ended by SIGKILL"),
        ([end(0, 2, 1.0, Verdict("refused", 2, "the disk is full.", 1.0))], "the disk is full."),
    ],
)
def test_a_lost_machine_is_the_cause_unless_a_rank_knows_another_or_was_killed(ranks: list[RankEnd], said: str) -> None:
    outcome = conclude(ranks, [], lost=[AWAY])
    assert outcome.code in (1, 2)
    assert outcome.message.startswith(said)


def test_a_machine_that_is_lost_while_the_others_save_is_a_failure() -> None:
    assert conclude([SAVED], [10], lost=[AWAY]) == (1, AWAY, True)
    assert conclude([SAVED], [10]) == (75, "", True)


def test_a_run_that_is_told_to_end_before_it_began_is_ended() -> None:
    assert conclude([], [2]) == (130, "interrupted.", True)
    assert conclude([], [15]) == (143, "ended by SIGTERM.", True)
