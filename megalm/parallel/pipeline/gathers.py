"""Lowering for parameters of which each data rank holds a part only (ZeRO stage 3): when they are whole. No torch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from megalm.parallel.pipeline.action import BACKWARDS, READS_PARAMETERS, Action, Kind
from megalm.parallel.pipeline.program import Program

Place = tuple[int, int]


def with_gathers(program: Program, num_blocks: Sequence[int], prefetch: int) -> Program:
    """Add the gather of each block's parameters before they are read, and their release after.

    What reads parameters is cut into its blocks: ``0F0`` of two becomes, with ``prefetch`` 1, ``0UNSHARD/0 0UNSHARD/1
    0F0/0 0RESHARD/0 0F0/1 0RESHARD/1``. What is read again before it would have been gathered again stays: the last
    block of a model goes forward and at once backward on one gather.

    Args:
        program: before sends and receives are added.
        num_blocks: of every stage.
        prefetch: how many blocks ahead of the one that computes are gathered; 0 gathers only when it is needed.
    """
    return Program.of(_gathered(list(_cut(actions, num_blocks)), prefetch) for actions in program.ranks)


def _cut(actions: Sequence[Action], num_blocks: Sequence[int]) -> Iterator[Action]:
    for action in actions:
        if action.kind not in READS_PARAMETERS or action.block is not None:
            yield action
            continue
        blocks = range(num_blocks[action.stage])
        for block in reversed(blocks) if action.kind in BACKWARDS else blocks:
            yield action._replace(block=block)


def _gathered(actions: Sequence[Action], prefetch: int) -> Iterator[Action]:
    reads = [index for index, action in enumerate(actions) if action.kind in READS_PARAMETERS]
    places = [_place(actions[index]) for index in reads]
    gathers: defaultdict[int, list[Place]] = defaultdict(list)
    released = set(range(len(reads)))
    last_read: dict[Place, int] = {}
    for number, place in enumerate(places):
        before = last_read.get(place)
        begins = max(number - prefetch, 0)
        if before is not None and before >= begins - 1:
            released.discard(before)
        else:
            gathers[begins].append(place)
        last_read[place] = number
    numbers = {index: number for number, index in enumerate(reads)}
    for index, action in enumerate(actions):
        if index not in numbers:
            yield action
            continue
        for stage, block in gathers[numbers[index]]:
            yield Action(stage, Kind.GATHER, block=block)
        yield action
        if numbers[index] in released:
            yield Action(action.stage, Kind.RELEASE, block=action.block)


def _place(action: Action) -> Place:
    assert action.block is not None
    return action.stage, action.block
