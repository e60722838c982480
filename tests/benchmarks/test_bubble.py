"""Oracle: closed forms of the bubble, and verdicts by hand; one pipeline of real ranks that only wait."""

from fractions import Fraction

from benchmarks.bubble.__main__ import measure
from benchmarks.bubble.cases import CASES, Case, Measured, verdicts


def test_the_cases_are_those_of_the_claim_and_predict_the_closed_forms() -> None:
    predicted = {(case.schedule, case.num_ranks): case.predicted() for case in CASES}
    assert predicted == {
        (schedule, p): Fraction(p - 1, work * 8 + p - 1)
        for p in (2, 4)
        for schedule, work in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 3))
    }


def test_verdicts_by_hand() -> None:
    measured = [Measured(case, [], float(case.predicted()) + 0.02) for case in CASES]
    assert all(verdict.holds for verdict in verdicts(measured))
    slow = [Measured(each.case, [], each.bubble + (0.02 if each.case.schedule == "zb-h1" else 0)) for each in measured]
    assert [verdict.claim for verdict in verdicts(slow) if not verdict.holds] == [
        "zb-h1 at p=2: within 0.03 of the clock",
        "zb-h1 at p=4: within 0.03 of the clock",
        "zb-h1 at most half of 1f1b at p=4, m=8",
    ]


def test_real_ranks_are_measured() -> None:
    """The time of the machine is not judged here: only that the ranks run, and are idle for some of it."""
    case = Case("zb-h1", 2, 3)
    assert 0 < measure(case, 0.005, 3) < 1
    assert case.predicted() == Fraction(1, 10)
