"""Lowering: adds to a schedule what its computation implies, and the schedule does not decide. No torch."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from megalm.parallel.pipeline.action import COMPUTE, Action, Kind
from megalm.parallel.pipeline.needs import needs
from megalm.parallel.pipeline.program import Program

_WEIGHT_GRADIENTS = frozenset({Kind.BACKWARD, Kind.BACKWARD_WEIGHT})


def with_reductions(
    program: Program,
    num_blocks: Sequence[int],
    at_end: Collection[tuple[int, int]] = (),
    *,
    of_each_microbatch: bool = False,
) -> Program:
    """Add the sum of each block's gradients over the data ranks, as soon as the block's last backward is done.

    The last ``B`` or ``W`` of a stage is cut into its blocks, from the last to the first, and each is followed by the
    block's reduction, so that the exchange overlaps what follows: ``0B1`` of two blocks becomes ``0B1/1 0REDUCE_GRAD/1
    0B1/0 0REDUCE_GRAD/0``. A send of what block 0 made goes before its reduction, since another rank waits for it. A
    program without micro-batches still reduces every block, since the other data ranks wait for it.

    Args:
        program: with or without sends and receives.
        num_blocks: of every stage. A stage that the program does not name is reduced on rank ``stage % ranks``.
        at_end: pairs (stage, block) reduced at the end of the rank's list instead: of a parameter that two stages of
            the rank share, only the last of their backwards makes the sum complete.
        of_each_microbatch: reduce after every ``B`` or ``W`` and not only after the last one (ZeRO from stage 2 on).
    """
    if len(num_blocks) < program.num_stages:
        raise ValueError(f"{program.num_stages} stages, but blocks of {len(num_blocks)}")
    stages: list[list[int]] = [[] for _ in program.ranks]
    for stage in reversed(range(len(num_blocks))):
        stages[program.rank_of_stage.get(stage, stage % len(program.ranks))].append(stage)
    return Program.of(
        _reduced(actions, {stage: num_blocks[stage] for stage in held}, at_end, of_each_microbatch)
        for actions, held in zip(program.ranks, stages, strict=True)
    )


def with_communication(program: Program) -> Program:
    """Add the sends and receives between stages on different ranks.

    A send stands right after the action that makes its value. What goes from one rank to another arrives in the order
    in which it was sent, forward and backward traffic alike, so a rank receives in that order: each receive stands just
    before the action that uses it, or where the receive of something sent later stands, whichever is first.
    """
    used_at = _remote_needs(program)
    receives: list[defaultdict[int, list[Action]]] = [defaultdict(list) for _ in program.ranks]
    channels: defaultdict[tuple[int, int], list[tuple[Action, int]]] = defaultdict(list)
    for source, made in program.actions():
        if made in used_at:
            target, place, receive = used_at[made]
            channels[source, target].append((receive, place))
    for (_, target), sent in channels.items():
        for place, receive in _no_later_than_the_next(sent):
            receives[target][place].append(receive)
    return Program.of(_communicating(actions, receives[rank], used_at) for rank, actions in enumerate(program.ranks))


def _reduced(
    actions: Sequence[Action],
    num_blocks: dict[int, int],
    at_end: Collection[tuple[int, int]],
    of_each_microbatch: bool,
) -> Iterator[Action]:
    last = {action.stage: action for action in actions if action.kind in _WEIGHT_GRADIENTS}
    reduced = (
        [action for action in actions if action.kind in _WEIGHT_GRADIENTS] if of_each_microbatch else last.values()
    )
    cut = {action: range(num_blocks[action.stage])[::-1] for action in reduced if num_blocks[action.stage]}
    after_send: list[Action] = []
    deferred: list[Action] = []
    for action in actions:
        if action.kind is not Kind.SEND_BACKWARD:
            yield from after_send
            after_send = []
        if action not in cut:
            yield action
            continue
        for block in cut[action]:
            yield from after_send
            yield action._replace(block=block)
            of = action.microbatch if of_each_microbatch else None
            after_send = [] if (action.stage, block) in at_end else [Action(action.stage, Kind.REDUCE, of, block)]
            if not after_send and action == last[action.stage]:
                deferred.append(Action(action.stage, Kind.REDUCE, block=block))
    yield from after_send
    untouched = [
        Action(s, Kind.REDUCE, block=b) for s, n in num_blocks.items() if s not in last for b in range(n)[::-1]
    ]
    yield from sorted(untouched, key=lambda reduction: (reduction.stage, reduction.block) in at_end)
    yield from deferred


def _remote_needs(program: Program) -> dict[Action, tuple[int, int, Action]]:
    """Map each action whose value goes to another rank to that rank, the place of its first use, and its receive."""
    found: dict[Action, tuple[int, int, Action]] = {}
    for rank, actions in enumerate(program.ranks):
        for place, action in enumerate(actions):
            if action.kind in COMPUTE:
                for need in needs(action, program):
                    if program.is_remote(need.stage, action.stage):
                        kind = Kind.RECEIVE_FORWARD if need.kind is Kind.FORWARD else Kind.RECEIVE_BACKWARD
                        found.setdefault(need, (rank, place, Action(action.stage, kind, action.microbatch)))
    return found


def _no_later_than_the_next(sent: Sequence[tuple[Action, int]]) -> Iterator[tuple[int, Action]]:
    """Yield one channel's receives in the order of the sends, each with the place before which it must stand."""
    last = [place for _, place in sent]
    for index in reversed(range(len(sent) - 1)):
        last[index] = min(last[index], last[index + 1])
    for place, (receive, _) in zip(last, sent, strict=True):
        yield place, receive


def _communicating(
    actions: Sequence[Action], receives: dict[int, list[Action]], used_at: dict[Action, tuple[int, int, Action]]
) -> Iterator[Action]:
    for place, action in enumerate(actions):
        yield from receives.get(place, ())
        yield action
        if action in used_at:
            kind = Kind.SEND_FORWARD if action.kind is Kind.FORWARD else Kind.SEND_BACKWARD
            yield Action(action.stage, kind, action.microbatch)
