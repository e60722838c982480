"""Oracle: every refusal by hand, and a second opinion by values (brute_force) on random mutations of programs."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.parallel.pipeline.action import COMPUTE, OF_A_STAGE, Action, Kind
from megalm.parallel.pipeline.check import check
from megalm.parallel.pipeline.clock import StageCost, time_program
from megalm.parallel.pipeline.lower import with_communication, with_reductions
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedule import BUILT_IN, MADE_FOR
from megalm.parallel.pipeline.schedules import gpipe, one_f_one_b, zb_h1
from tests.parallel.pipeline import brute_force
from tests.parallel.pipeline.programs import FULL, lowered, patient, printed, read, schedule_programs, words

REFUSALS: list[tuple[Sequence[str], str]] = [
    # a forward, a backward or a half is missing, or too much is there
    (["0F0 0B0 0B1"], "0F1 is missing; every stage goes forward with every micro-batch."),
    (["0F0 0B0", "1F0"], "1B0 is missing; add it, or its halves 1I0 and 1W0."),
    (["0F0 0F1 0B0"], "0B1 is missing; add it, or its halves 0I1 and 0W1."),
    (["0F0 0I0"], "0W0 is missing beside 0I0; add it, or write 0B0 for both."),
    (["0F0 0W0"], "0I0 is missing beside 0W0; add it, or write 0B0 for both."),
    (["0F0 0B0 0I0 0W0"], "0B0 stands beside 0I0; keep the whole backward or its halves."),
    (["0F0 0B0 0W0"], "0B0 stands beside 0W0; keep the whole backward or its halves."),
    (["0F0 0B0 0F0"], "0F0 stands twice on rank 0; take one away."),
    (["0F0 0B999999999"], "0B0 is missing; add it, or its halves 0I0 and 0W0."),
    # blocks
    (["0F0 0B0 0B0/0"], "0B0 stands beside 0B0/0; keep the whole or its blocks."),
    (["0F0 0B0/2 0B0/0"], "0B0/1 is missing beside 0B0/2; what is cut into blocks has all of them, from 0."),
    (
        ["0F0 0B0/0 0F1 0B1/1 0B1/0"],
        "0B0/0 and 0B1/1 are the last blocks of stage 0; cut it alike everywhere.",
    ),
    (
        ["0F0 0B0/1 0B0/0 0REDUCE_GRAD/0"],
        "0B0/1 and 0REDUCE_GRAD/0 are the last blocks of stage 0; cut it alike everywhere.",
    ),
    (
        ["0F0 0B0 0REDUCE_GRAD/1"],
        "0REDUCE_GRAD/0 is missing beside 0REDUCE_GRAD/1; what is cut into blocks has all of them, from 0.",
    ),
    (
        ["0F0 0B0 0REDUCE_GRAD 0REDUCE_GRAD/0"],
        "0REDUCE_GRAD stands beside 0REDUCE_GRAD/0; keep the whole or its blocks.",
    ),
    (["0F0 0B0 0REDUCE_GRAD", "1F0 1B0"], "1REDUCE_GRAD is missing, though other stages are reduced; add it."),
    (["0SEND_F0/0"], "0SEND_F0/0 on rank 0 names a block; only computation and what is done for parameters is cut."),
    (
        ["0F0 0B0 0REDUCE_GRAD0 0F1 0B1"],
        "0REDUCE_GRAD1 is missing, though other micro-batches are reduced; add it.",
    ),
    (["0F0/1 0F0/0 0B0"], "0F0/1 on rank 0 waits for 0F0/0, which stands after it; put it before."),
    (["0F0/1 0B0"], "0F0/0 is missing beside 0F0/1; what is cut into blocks has all of them, from 0."),
    # parameters
    (
        ["0UNSHARD 0F0 0RESHARD 0B0"],
        "0B0 on rank 0 reads parameters that are not there; put 0UNSHARD before it.",
    ),
    (
        ["0UNSHARD/0 0F0/0 0F0/1 0RESHARD/0 0B0"],
        "0F0/1 on rank 0 reads parameters that are not there; put 0UNSHARD/1 before it.",
    ),
    (
        ["0UNSHARD 0UNSHARD 0F0 0B0 0RESHARD"],
        "0UNSHARD stands twice on rank 0 without a release between; take one away.",
    ),
    (["0UNSHARD 0F0 0B0 0RESHARD 0RESHARD"], "0RESHARD on rank 0 releases what is not there; take it away."),
    (["0UNSHARD 0F0 0B0"], "0RESHARD is missing; what is gathered is released in the same step."),
    # stages
    (["0F0 0B0 1B0", "1F0"], "1B0 stands on rank 0, but stage 1 is on rank 1; move it there."),
    (["0F0 0B0", "0F1 0B1"], "0F1 stands on rank 1, but stage 0 is on rank 0; move it there."),
    (["1F0 1B0"], "stage 0 is missing below stage 1; number the stages from 0 without a gap."),
    (["0F0 0B0", "2F0 2B0"], "stage 1 is missing below stage 2; number the stages from 0 without a gap."),
    (["0F0 0B0 999999999F0"], "stage 1 is missing below stage 999999999; number the stages from 0 without a gap."),
    # messages
    (["0F0 0RECV_B0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"], "1RECV_F0 has no 0SEND_F0; add it on rank 0."),
    (["0F0 0SEND_F0 0RECV_B0 0B0", "1F0 1B0 1SEND_B0"], "0SEND_F0 has no 1RECV_F0; add it on rank 1."),
    (["0F0 0SEND_F0 0RECV_B0 0B0", "1RECV_F0 1F0 1B0"], "0RECV_B0 has no 1SEND_B0; add it on rank 1."),
    (["0F0 0SEND_F0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"], "1SEND_B0 has no 0RECV_B0; add it on rank 0."),
    (
        ["0F0 0SEND_F0 0B0", "1RECV_F0 1F0 1B0"],
        "1SEND_B0 and 0RECV_B0 are missing, though other values are sent; add them.",
    ),
    (["0F0 1F0 1RECV_F0 1B0 0B0"], "1RECV_F0 on rank 0 has no other rank to talk to; take it away."),
    (["0F0 0SEND_F0 1F0 1B0 0B0"], "0SEND_F0 on rank 0 has no other rank to talk to; take it away."),
    (["0F0 0B0 0SEND_B0"], "0SEND_B0 on rank 0 has no other rank to talk to; take it away."),
    (
        ["0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1", "1RECV_F1 1RECV_F0 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1"],
        "1RECV_F1 on rank 1 stands where 0SEND_F0 of rank 0 arrives; put the receives in the order of the sends.",
    ),
    # waiting
    (["0B0 0F0"], "0B0 on rank 0 waits for 0F0, which stands after it; put it before."),
    (["0F0 0W0 0I0"], "0W0 on rank 0 waits for 0I0, which stands after it; put it before."),
    (["0F0 0B0/0 0B0/1"], "0B0/0 on rank 0 waits for 0B0/1, which stands after it; put it before."),
    (["0F0 0REDUCE_GRAD 0B0"], "0REDUCE_GRAD on rank 0 waits for 0B0, which stands after it; put it before."),
    (
        ["0SEND_F0 0F0 0RECV_B0 0B0", "1RECV_F0 1F0 1B0 1SEND_B0"],
        "0SEND_F0 on rank 0 waits for 0F0, which stands after it; put it before.",
    ),
    (
        ["0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"],
        "0B0 on rank 0 waits for 1B0, but rank 1 waits at 1F1 for 0F1, and so for ever; change the order of one of "
        "them.",
    ),
    (
        ["0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1", "1RECV_F0 1RECV_F1 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1"],
        "0RECV_B0 on rank 0 waits for 1SEND_B0, but rank 1 waits at 1RECV_F1 for 0SEND_F1, and so for ever; change the "
        "order of one of them.",
    ),
]


@pytest.mark.parametrize(("ranks", "told"), REFUSALS)
def test_a_refusal_names_the_action(ranks: Sequence[str], told: str) -> None:
    with pytest.raises(UserError) as refusal:
        check(read(*ranks))
    assert str(refusal.value) == told


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (
            Action(0, Kind.FORWARD),
            "0F on rank 0 has no micro-batch; write words like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD.",
        ),
        (
            Action(0, Kind.GATHER, 2),
            "0UNSHARD2 on rank 0 has a micro-batch; write words like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD.",
        ),
        (
            Action(-1, Kind.FORWARD, 0),
            "-1F0 on rank 0 has a negative number; count stages, micro-batches and blocks from 0.",
        ),
        (
            Action(0, Kind.BACKWARD, 0, -1),
            "0B0/-1 on rank 0 has a negative number; count stages, micro-batches and blocks from 0.",
        ),
    ],
)
def test_what_only_an_own_function_can_write(action: Action, told: str) -> None:
    with pytest.raises(UserError) as refusal:
        check(Program.of([[action]]))
    assert str(refusal.value) == told


def test_what_is_in_flight_must_fit() -> None:
    check(one_f_one_b(2, 4), most_in_flight=[2, 1])
    check(lowered(one_f_one_b(2, 4), 3), most_in_flight=[2, 1])
    check(zb_h1(2, 4), most_in_flight=[2, 2])
    check(read("0F0 0B0/1 0B0/0 0F1 0I1 0W1/1 0W1/0 0F2 0B2"), most_in_flight=[1])
    for program, fits, told in [
        (gpipe(2, 4), [4, 2], "1F2 on rank 1 would be number 3 in flight, and 2 fit"),
        (zb_h1(2, 4), [2, 1], "1F1 on rank 1 would be number 2 in flight, and 1 fit"),
    ]:
        with pytest.raises(UserError) as refusal:
            check(program, most_in_flight=fits)
        assert (
            str(refusal.value) == told + "; go back earlier, or choose a schedule with fewer micro-batches in flight."
        )


def test_legal_programs_that_no_schedule_writes() -> None:
    check(read("", ""))
    check(with_reductions(one_f_one_b(2, 0), [2, 2]))
    check(read("0UNSHARD 0F0 0RESHARD 0UNSHARD 0B0 0REDUCE_GRAD 0RESHARD"))
    check(read("0F0 0F1 0B1 0I0 0W0"))
    check(read("0F0 2F0 2B0 0B0", "1F0 1B0"))


@settings(patient, max_examples=400 if FULL else 30)
@given(schedule_programs(), st.integers(1, 3))
def test_every_schedule_passes_plain_and_lowered(program: Program, blocks: int) -> None:
    check(program)
    check(lowered(program, blocks))


def passes(program: Program) -> bool:
    try:
        check(program)
    except UserError:
        return False
    return True


def mutated(program: Program, choose: Random) -> Program:
    """Drop, double, swap, move or retarget one to three actions."""
    ranks = [list(actions) for actions in program.ranks]
    for _ in range(choose.choice([1, 1, 1, 2, 3])):
        actions = choose.choice([actions for actions in ranks if actions] or [[Action(0, Kind.FORWARD, 0)]])
        place = choose.randrange(len(actions))
        near = min(max(place + choose.randint(-4, 4), 0), len(actions) - 1)
        match choose.choice(["drop", "double", "swap", "swap near", "move near", "move", "retarget"]):
            case "drop":
                del actions[place]
            case "double":
                actions.insert(choose.randrange(len(actions)), actions[place])
            case "swap":
                other = choose.randrange(len(actions))
                actions[place], actions[other] = actions[other], actions[place]
            case "swap near":
                actions[place], actions[near] = actions[near], actions[place]
            case "move near":
                actions.insert(near, actions.pop(place))
            case "move":
                moved, to = actions.pop(place), choose.choice(ranks)
                to.insert(choose.randint(0, len(to)), moved)
            case "retarget":
                actions[place] = retargeted(actions[place], program, choose)
    return Program.of(ranks)


def retargeted(action: Action, program: Program, choose: Random) -> Action:
    """Change the stage, the kind, the micro-batch or the block of an action; the word stays one of the vocabulary."""
    match choose.choice(["stage", "kind", "microbatch", "block"]):
        case "stage":
            return action._replace(stage=choose.randint(0, program.num_stages))
        case "microbatch" if action.microbatch is not None:
            return action._replace(microbatch=choose.randint(0, program.num_microbatches))
        case "block":
            return action._replace(block=choose.choice([None, 0, 1, 2, 3]))
    alike = {Kind.REDUCE} if action.kind in OF_A_STAGE else set(Kind) - OF_A_STAGE
    return action._replace(kind=choose.choice(sorted(alike)))


def a_schedule(choose: Random) -> Program:
    """Choose a small schedule: plain, with reductions, with communication, or with both."""
    name = choose.choice(sorted(BUILT_IN))
    program = BUILT_IN[name](choose.randint(1, 4), choose.randint(1, 6), MADE_FOR.get(name, choose.randint(1, 3)))
    if choose.random() < 0.6:
        shared = [(0, 0)] if choose.random() < 0.3 else []
        program = with_reductions(program, [choose.randint(1, 3) for _ in range(program.num_stages)], at_end=shared)
    return with_communication(program) if choose.random() < 0.6 else program


def test_a_mutation_is_refused_exactly_when_it_harms() -> None:
    """What passes runs to its end and is one whole step; what is refused does not, or is not."""
    num_mutations = 20_000 if FULL else 2_000
    num_harmless = 0
    for seed in range(num_mutations):
        choose = Random(seed)
        program = mutated(a_schedule(choose), choose)
        harmless = brute_force.is_one_training_step(words(program)) and brute_force.runs_to_its_end(words(program))
        assert passes(program) == harmless, (seed, printed(program))
        if harmless:
            num_harmless += 1
            timetable = time_program(program, [StageCost(1, 1, 1)] * program.num_stages)
            assert {span.action for span in timetable.spans} == {a for a in program.words if a.kind in COMPUTE}, seed
    assert 0.1 < num_harmless / num_mutations < 0.5
