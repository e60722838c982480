"""Judges a program before anything runs: it does everything once, its messages pair up, and nobody waits for ever.

No torch.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

from megalm.errors import UserError
from megalm.parallel.pipeline.action import (
    COMPUTE,
    OF_A_STAGE,
    READS_PARAMETERS,
    RECEIVES,
    SENDS,
    Action,
    Kind,
    is_counted_right,
)
from megalm.parallel.pipeline.needs import needs, run_order
from megalm.parallel.pipeline.program import Program


def check(program: Program, *, most_in_flight: Sequence[int] | None = None) -> None:
    """Return if every rank can do its list to the end, and all lists together are one training step.

    Args:
        program: with or without reductions, sends and receives.
        most_in_flight: for each rank how many micro-batches of its stages it may keep at once, from the forward of each
            until its ``B`` or ``W``; ``None`` for any number.

    Raises:
        UserError: they cannot; it names the first action that is at fault.
    """
    for rule in (
        _words_are_sound,
        _stages_lie_on_one_rank,
        _nothing_is_done_twice,
        _every_microbatch_goes_both_ways,
        _every_stage_is_reduced_as_it_is_cut,
        _parameters_are_there,
        _messages_pair_up,
        _messages_arrive_in_order,
        _nobody_waits_for_ever,
    ):
        for fault in rule(program):
            raise UserError(fault)
    if most_in_flight is not None:
        for fault in _what_is_kept_fits(program, most_in_flight):
            raise UserError(fault)


def _words_are_sound(program: Program) -> Iterator[str]:
    for rank, action in program.actions():
        stage, kind, microbatch, block = action
        if not is_counted_right(kind, microbatch):
            has = "has no micro-batch" if microbatch is None else "has a micro-batch"
            yield f"{action} on rank {rank} {has}; write words like 2F0, 2B0, 2SEND_F0 or 2REDUCE_GRAD."
        if min(stage, microbatch or 0, block or 0) < 0:
            yield f"{action} on rank {rank} has a negative number; count stages, micro-batches and blocks from 0."
        if block is not None and kind not in COMPUTE and kind not in OF_A_STAGE:
            yield f"{action} on rank {rank} names a block; only computation and what is done for parameters is cut."


def _stages_lie_on_one_rank(program: Program) -> Iterator[str]:
    holders: dict[int, int] = {}
    for rank, action in program.actions():
        holder = holders.setdefault(action.stage, program.rank_of_stage.get(action.stage, rank))
        if holder != rank:
            yield f"{action} stands on rank {rank}, but stage {action.stage} is on rank {holder}; move it there."
    for stage in range(max(holders, default=-1)):
        if stage not in holders:
            yield f"stage {stage} is missing below stage {max(holders)}; number the stages from 0 without a gap."


def _nothing_is_done_twice(program: Program) -> Iterator[str]:
    seen: set[Action] = set()
    for rank, action in program.actions():
        if action in seen and action.kind not in (Kind.GATHER, Kind.RELEASE):
            yield f"{action} stands twice on rank {rank}; take one away."
        seen.add(action)


def _every_microbatch_goes_both_ways(program: Program) -> Iterator[str]:
    blocks: defaultdict[tuple[int, Kind, int | None], set[int | None]] = defaultdict(set)
    for _, (stage, kind, number, block) in program.actions():
        blocks[stage, kind, number].add(block)
    for stage in sorted({action.stage for action in program.words}):
        for number in range(program.num_microbatches):
            forward, whole, half, weights = (
                Action(stage, kind, number)
                for kind in (Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUT, Kind.BACKWARD_WEIGHT)
            )
            has_forward, has_whole, has_half, has_weights = (
                (stage, action.kind, number) in blocks for action in (forward, whole, half, weights)
            )
            if not has_forward:
                yield f"{forward} is missing; every stage goes forward with every micro-batch."
            if has_whole and (has_half or has_weights):
                yield f"{whole} stands beside {half if has_half else weights}; keep the whole backward or its halves."
            if not (has_whole or has_half or has_weights):
                yield f"{whole} is missing; add it, or its halves {half} and {weights}."
            if has_half != has_weights:
                there, absent = (half, weights) if has_half else (weights, half)
                yield f"{absent} is missing beside {there}; add it, or write {whole} for both."
            for action in (forward, whole, half, weights):
                yield from _blocks_are_all_there(action, blocks.get((stage, action.kind, number), ()))


def _blocks_are_all_there(action: Action, blocks: Collection[int | None]) -> Iterator[str]:
    """Find fault with the blocks of one word, which stands whole (``None``) or in blocks from 0 without a gap."""
    numbers = sorted(block for block in blocks if block is not None)
    if not numbers:
        return
    if len(numbers) < len(blocks):
        yield f"{action} stands beside {action._replace(block=numbers[0])}; keep the whole or its blocks."
    for expected, number in enumerate(numbers):
        if number != expected:
            part, there = action._replace(block=expected), action._replace(block=number)
            yield f"{part} is missing beside {there}; what is cut into blocks has all of them, from 0."


def _every_stage_is_reduced_as_it_is_cut(program: Program) -> Iterator[str]:
    reduced: defaultdict[int, dict[int | None, set[int | None]]] = defaultdict(lambda: defaultdict(set))
    top: dict[Action, Action] = {}
    for _, action in program.actions():
        if action.kind is Kind.REDUCE:
            reduced[action.stage][action.microbatch].add(action.block)
        if action.block is not None and (action.kind is Kind.REDUCE or action.kind in COMPUTE):
            number = None if action.kind is Kind.REDUCE else action.microbatch
            word = action._replace(block=None, microbatch=number)
            top[word] = max(top.get(word, action), action, key=lambda part: part.block or 0)
    for stage in program.rank_of_stage if reduced else ():
        numbers = reduced[stage]
        if not numbers:
            yield f"{stage}REDUCE_GRAD is missing, though other stages are reduced; add it."
        single = set(numbers) == {None}
        for number in (None,) if single or not numbers else range(program.num_microbatches):
            blocks = numbers[number] | numbers[None]
            if not blocks:
                yield f"{stage}REDUCE_GRAD{number} is missing, though other micro-batches are reduced; add it."
            yield from _blocks_are_all_there(Action(stage, Kind.REDUCE, number), blocks)
    first: dict[int, Action] = {}
    for last in top.values():
        other = first.setdefault(last.stage, last)
        if other.block != last.block:
            yield f"{other} and {last} are the last blocks of stage {last.stage}; cut it alike everywhere."


def _parameters_are_there(program: Program) -> Iterator[str]:
    """Where parameters are gathered at all, each block is between its gather and its release when it reads them."""
    if not any(action.kind in (Kind.GATHER, Kind.RELEASE) for action in program.words):
        return
    there: set[tuple[int, int | None]] = set()
    for rank, action in program.actions():
        place = action.stage, action.block
        if action.kind is Kind.GATHER:
            if place in there:
                yield f"{action} stands twice on rank {rank} without a release between; take one away."
            there.add(place)
        elif action.kind in READS_PARAMETERS and place not in there:
            gather = Action(action.stage, Kind.GATHER, block=action.block)
            yield f"{action} on rank {rank} reads parameters that are not there; put {gather} before it."
        elif action.kind is Kind.RELEASE:
            if place not in there:
                yield f"{action} on rank {rank} releases what is not there; take it away."
            there.discard(place)
    for stage, block in sorted(there, key=str):
        yield f"{Action(stage, Kind.RELEASE, block=block)} is missing; what is gathered is released in the same step."


def _messages_pair_up(program: Program) -> Iterator[str]:
    if not program.communicates:
        return
    expected: set[Action] = set()
    for stage in range(1, program.num_stages):
        if not program.is_remote(stage - 1, stage):
            continue
        for number in range(program.num_microbatches):
            for send, receive in (
                (Action(stage - 1, Kind.SEND_FORWARD, number), Action(stage, Kind.RECEIVE_FORWARD, number)),
                (Action(stage, Kind.SEND_BACKWARD, number), Action(stage - 1, Kind.RECEIVE_BACKWARD, number)),
            ):
                expected |= {send, receive}
                if send not in program.words and receive not in program.words:
                    yield f"{send} and {receive} are missing, though other values are sent; add them."
                for missing, there in ((send, receive), (receive, send)):
                    if missing not in program.words:
                        yield f"{there} has no {missing}; add it on rank {program.rank_of_stage[missing.stage]}."
    for rank, action in program.actions():
        if (action.kind in SENDS or action.kind in RECEIVES) and action not in expected:
            yield f"{action} on rank {rank} has no other rank to talk to; take it away."


def _messages_arrive_in_order(program: Program) -> Iterator[str]:
    sent: defaultdict[tuple[int, int], list[Action]] = defaultdict(list)
    received: defaultdict[tuple[int, int], list[tuple[Action, Action]]] = defaultdict(list)
    for rank, action in program.actions():
        if action.kind in RECEIVES:
            (send,) = needs(action, program)
            received[program.rank_of_stage[send.stage], rank].append((action, send))
        elif action.kind in SENDS:
            neighbour = action.stage + (1 if action.kind is Kind.SEND_FORWARD else -1)
            sent[rank, program.rank_of_stage[neighbour]].append(action)
    for (source, target), sends in sent.items():
        for send, (receive, wanted) in zip(sends, received[source, target], strict=True):
            if wanted != send:
                yield (
                    f"{receive} on rank {target} stands where {send} of rank {source} arrives; "
                    "put the receives in the order of the sends."
                )


def _nobody_waits_for_ever(program: Program) -> Iterator[str]:
    places = Counter(rank for rank, _ in run_order(program))
    done = {action for rank, actions in enumerate(program.ranks) for action in actions[: places[rank]]}
    stuck: dict[int, tuple[Action, Action]] = {}
    for rank, actions in enumerate(program.ranks):
        if places[rank] < len(actions):
            waiting = actions[places[rank]]
            stuck[rank] = waiting, next(need for need in needs(waiting, program) if need not in done)
    for rank, (waiting, awaited) in stuck.items():
        if awaited in program.ranks[rank]:
            yield f"{waiting} on rank {rank} waits for {awaited}, which stands after it; put it before."
    for rank, (waiting, awaited) in stuck.items():
        other = program.rank_of_stage[awaited.stage]
        yield (
            f"{waiting} on rank {rank} waits for {awaited}, but rank {other} waits at {stuck[other][0]} for "
            f"{stuck[other][1]}, and so for ever; change the order of one of them."
        )


def _what_is_kept_fits(program: Program, most_in_flight: Sequence[int]) -> Iterator[str]:
    for rank, (actions, most) in enumerate(zip(program.ranks, most_in_flight, strict=True)):
        kept = 0
        for action in actions:
            if action.kind is Kind.FORWARD and not action.block:
                kept += 1
            elif action.kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT) and not action.block:
                kept -= 1
            if kept > most:
                yield (
                    f"{action} on rank {rank} would be number {kept} in flight, and {most} fit; "
                    "go back earlier, or choose a schedule with fewer micro-batches in flight."
                )
