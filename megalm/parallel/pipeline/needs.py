"""What must be done before an action: the one rule that lowering, checker, clock and engine read. No torch."""

from collections import defaultdict, deque
from collections.abc import Iterator

from megalm.parallel.pipeline.action import BACKWARDS, Action, Kind
from megalm.parallel.pipeline.program import Program


def needs(action: Action, program: Program) -> Iterator[Action]:
    """Yield the actions, of any rank, whose results ``action`` uses.

    The order of a rank's own list is not among them: it is the schedule's choice, not a need. Before lowering a stage
    needs what its neighbour does; after it, what the receive of that brings. What is cut into blocks
    goes through them in their order, a backward from the last to the first.

    Args:
        action: one of the program's.
        program: tells which stages are remote, what is cut into halves or blocks, and whether sends and
            receives stand in it.
    """
    stage, kind, number, block = action
    if block is not None and kind in BACKWARDS:
        later = Action(stage, kind, number, block + 1)
        if later in program.words:
            yield later
            return
    if block and kind is Kind.FORWARD:
        yield Action(stage, kind, number, block - 1)
        return
    match kind:
        case Kind.FORWARD:
            if stage > 0:
                yield _brings_input(stage, number, program)
        case Kind.BACKWARD | Kind.BACKWARD_INPUT:
            yield makes_output(stage, number, program)
            if stage + 1 < program.num_stages:
                yield _brings_gradient(stage, number, program)
        case Kind.BACKWARD_WEIGHT:
            yield _completes(stage, Kind.BACKWARD_INPUT, number, None, program)
        case Kind.SEND_FORWARD:
            yield makes_output(stage, number, program)
        case Kind.RECEIVE_FORWARD:
            yield Action(stage - 1, Kind.SEND_FORWARD, number)
        case Kind.SEND_BACKWARD:
            yield makes_input_gradient(stage, number, program)
        case Kind.RECEIVE_BACKWARD:
            yield Action(stage + 1, Kind.SEND_BACKWARD, number)
        case Kind.REDUCE:
            for every in range(program.num_microbatches) if number is None else (number,):
                yield _makes_weight_gradients(stage, every, block, program)
        case Kind.GATHER | Kind.RELEASE:
            return


def makes_output(stage: int, microbatch: int | None, program: Program) -> Action:
    """Return the action that completes what a stage gives: the whole forward or its last block."""
    whole = Action(stage, Kind.FORWARD, microbatch)
    last = whole._replace(block=program.last_blocks.get(stage))
    return last if last in program.words else whole


def makes_input_gradient(stage: int, microbatch: int | None, program: Program) -> Action:
    """Return the action that completes the gradient of a stage's input: the whole backward or its input half."""
    half = _completes(stage, Kind.BACKWARD_INPUT, microbatch, None, program)
    return half if half in program.words else _completes(stage, Kind.BACKWARD, microbatch, None, program)


def run_order(program: Program) -> Iterator[tuple[int, Action]]:
    """Yield every action with its rank, in an order in which the ranks together can do them; sends never wait.

    It ends early where the ranks wait for one another for ever.
    """
    done: set[Action] = set()
    waiting: defaultdict[Action, list[int]] = defaultdict(list)
    left = [iter(actions) for actions in program.ranks]
    head = [next(actions, None) for actions in left]
    ready = deque(range(len(left)))
    while ready:
        rank = ready.popleft()
        while (action := head[rank]) is not None:
            missing = next((need for need in needs(action, program) if need not in done), None)
            if missing is not None:
                waiting[missing].append(rank)
                break
            done.add(action)
            ready.extend(waiting.pop(action, ()))
            head[rank] = next(left[rank], None)
            yield rank, action


def _makes_weight_gradients(stage: int, microbatch: int, block: int | None, program: Program) -> Action:
    half = _completes(stage, Kind.BACKWARD_WEIGHT, microbatch, block, program)
    return half if half in program.words else _completes(stage, Kind.BACKWARD, microbatch, block, program)


def _completes(stage: int, kind: Kind, microbatch: int | None, block: int | None, program: Program) -> Action:
    """Return the backward that is whole or, where it is cut, its part of ``block``; of all of them, the first block."""
    whole = Action(stage, kind, microbatch)
    part = Action(stage, kind, microbatch, block or 0)
    return part if part in program.words else whole


def _brings_input(stage: int, microbatch: int | None, program: Program) -> Action:
    if program.communicates and program.is_remote(stage - 1, stage):
        return Action(stage, Kind.RECEIVE_FORWARD, microbatch)
    return makes_output(stage - 1, microbatch, program)


def _brings_gradient(stage: int, microbatch: int | None, program: Program) -> Action:
    if program.communicates and program.is_remote(stage, stage + 1):
        return Action(stage, Kind.RECEIVE_BACKWARD, microbatch)
    return makes_input_gradient(stage + 1, microbatch, program)
