"""Oracle: the fault that was planted in a simulated run, in which a collective ends when all have come to it."""

import random
from dataclasses import replace

import pytest

from megalm.layout import Layout
from megalm.watch.diagnosis import RUNS, Diagnosis, Fate, Node, State, Wait, diagnose
from megalm.watch.position import Call, Channel, End, Lane, Position
from tests.watch.simulated import Run

LAYOUTS = (Layout(dp=2, tp=2), Layout(pp=2, dp=2), Layout(pp=3), Layout(pp=2, dp=3, tp=2), Layout(dp=4))
TP = Channel((0, 1))


def found(run: Run, fates: dict[int, Fate]) -> Diagnosis | None:
    return diagnose(run.positions(), run.layout.world_size, fates)


def chains_end_at(diagnosis: Diagnosis, culprit: int) -> bool:
    """Whether following who waits on whom from any waiting rank comes to the culprit."""
    on: dict[int, set[int]] = {}
    for wait in diagnosis.waits:
        on.setdefault(wait.node.rank, set()).update(node.rank for node in wait.on)
    for start in on:
        seen, front = {start}, {start}
        while front:
            front = {other for rank in front for other in on.get(rank, ())} - seen
            seen |= front
        if culprit not in seen:
            return False
    return True


@pytest.mark.parametrize("state", ["runs", "stopped", "silent", "dead"])
def test_the_rank_that_goes_no_further_is_named(state: State) -> None:
    chance = random.Random(7)
    stuck = 0
    for _ in range(100):
        run = Run(chance.choice(LAYOUTS), 25, chance)
        culprit = chance.randrange(run.layout.world_size)
        run.go({culprit: chance.randrange(len(run.ranks[culprit].todo))})
        diagnosis = found(run, {culprit: Fate(state)})
        assert diagnosis is not None
        assert diagnosis.ranks == (culprit,)
        assert diagnosis.cause == ("busy" if state == "runs" else state)
        assert chains_end_at(diagnosis, culprit)
        stuck += len(run.stuck())
    assert stuck > 200


def test_two_that_go_no_further_are_both_named() -> None:
    chance = random.Random(8)
    for _ in range(50):
        run = Run(Layout(dp=2, tp=2), 25, chance)
        first, second = sorted(chance.sample(range(4), 2))
        run.go({first: 5, second: 5})
        diagnosis = found(run, {first: Fate("dead"), second: Fate("dead")})
        assert diagnosis is not None
        assert (diagnosis.cause, diagnosis.ranks) == ("dead", (first, second))


def test_a_rank_that_leaves_a_collective_out_is_out_of_step() -> None:
    chance = random.Random(9)
    causes = {"mismatch": 0, "circle": 0, "busy": 0}
    for _ in range(100):
        run = Run(chance.choice(LAYOUTS), 25, chance)
        culprit = chance.randrange(run.layout.world_size)
        del run.ranks[culprit].todo[chance.randrange(len(run.ranks[culprit].todo))]
        run.go({})
        assert run.stuck()
        diagnosis = found(run, {})
        assert diagnosis is not None
        causes[diagnosis.cause] += 1
        assert culprit in diagnosis.ranks
        if diagnosis.cause == "busy":  # it is through, and the others wait
            assert culprit not in run.stuck()
        else:
            mismatched = diagnosis.cause == "mismatch"
            assert len({call for call in diagnosis.calls if call}) == len(diagnosis.ranks) or not mismatched
    assert min(causes.values()) > 3, causes


def test_a_run_that_is_through_has_no_diagnosis() -> None:
    chance = random.Random(10)
    run = Run(Layout(pp=2, dp=2), 25, chance)
    run.go({})
    assert run.stuck() == []
    assert found(run, {}) is None


def place(rank: int, waits: Call | None = None, *begun: Call, **fields: object) -> Position:
    calls = [*begun, *([waits] if waits else [])]
    lanes = [Lane("1F0", 5.0, waits)]
    made = Position(rank, 2, "h1", 1, {"tp": rank}, 3, lanes, {call.channel: call for call in calls})
    return replace(made, **fields)  # type: ignore[arg-type]


def calls(*numbers: int, kind: str = "all_reduce", payload: int = 8, axis: str = "tp") -> list[Call]:
    return [Call(TP, number, axis, kind, payload) for number in numbers]


@pytest.mark.parametrize(
    ("other", "fate", "cause", "ranks"),
    [
        (None, RUNS, "absent", (1,)),
        (place(1, None, *calls(4)), RUNS, "busy", (1,)),
        (place(1, None, *calls(5)), Fate("dead"), "dead", (1,)),
        (place(1, *calls(5)), Fate("stopped"), "stopped", (1,)),
        (place(1, *calls(5)), RUNS, "unreachable", (0, 1)),
        (place(1, *calls(5, kind="all_gather")), RUNS, "mismatch", (0, 1)),
        (place(1, *calls(5, payload=16)), RUNS, "mismatch", (0, 1)),
        (place(1, *calls(5, payload=16)), Fate("dead"), "mismatch", (0, 1)),
        (place(1, *calls(5, axis="dp")), RUNS, "mismatch", (0, 1)),
        (place(1, Call(Channel((0, 1), "other"), 1, "world", "barrier", 0), *calls(4)), RUNS, "circle", (0, 1)),
        (place(1, *calls(4), end=End("crashed", "why")), Fate("dead"), "failed", (1,)),
        (place(1, None, *calls(4), end=End("finished")), Fate("dead"), "busy", (1,)),
    ],
)
def test_one_rank_waits_in_the_fifth_sum(
    other: Position | None, fate: Fate, cause: str, ranks: tuple[int, ...]
) -> None:
    positions = {0: place(0, *calls(5)), **({1: other} if other else {})}
    diagnosis = diagnose(positions, 2, {1: fate})
    assert diagnosis is not None
    assert (diagnosis.cause, diagnosis.ranks) == (cause, ranks)


def test_a_rank_that_only_lost_another_is_no_cause() -> None:
    positions = {
        0: place(0, *calls(5), end=End("lost", "rank 1 is gone", 1.0)),
        1: place(1, *calls(4), end=End("refused", "the disk is full", 2.0)),
    }
    diagnosis = diagnose(positions, 2, {0: Fate("dead"), 1: Fate("dead")})
    assert diagnosis is not None
    assert (diagnosis.cause, diagnosis.ranks) == ("failed", (1,))


def test_a_rank_that_has_given_up_had_come_all_the_same() -> None:
    world = Call(Channel((0, 1, 2)), 5, "world", "all_reduce", 8)
    lost = End("lost", "after run.timeout", 1.0)
    positions = {0: place(0, world, end=lost), 1: place(1, world, end=lost), 2: place(2, None)}
    diagnosis = diagnose(positions, 3, {1: Fate("dead")})
    assert diagnosis is not None
    assert (diagnosis.cause, diagnosis.ranks) == ("busy", (2,))
    assert [wait.on for wait in diagnosis.waits] == [(Node(2, 0),)] * 2


def test_a_save_that_waits_for_training_is_followed_to_it() -> None:
    """Rank 0 saves and waits for rank 1's save, which has not begun, for its training is busy."""
    saves = Call(Channel((0, 1), "checkpoint"), 3, "checkpoint", "all_gather", 8)
    positions = {0: place(0, None, *calls(5), saves), 1: place(1, None, *calls(4), saves._replace(number=2))}
    positions[0] = replace(positions[0], lanes=[Lane("saving", 5.0, joins=True), Lane("saving", 5.0, saves)])
    diagnosis = diagnose(positions, 2, {})
    assert diagnosis is not None
    assert (diagnosis.cause, diagnosis.ranks) == ("busy", (1,))
    assert diagnosis.waits == (
        Wait(Node(0, 0), None, (Node(0, 1),)),
        Wait(Node(0, 1), saves, (Node(1, 0),)),
    )


def test_a_gpu_waits_in_what_it_was_given_and_others_were_not() -> None:
    positions = {rank: place(rank, None, *calls(5 - rank), on_device=True) for rank in range(2)}
    diagnosis = diagnose(positions, 2, {})
    assert diagnosis is not None
    assert (diagnosis.cause, diagnosis.ranks) == ("busy", (1,))
