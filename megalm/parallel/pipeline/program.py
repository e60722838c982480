"""Programs: the order of a rank's actions, made by pure functions."""

from collections.abc import Sequence

from megalm.parallel.pipeline.action import Action, Kind

Program = Sequence[Action]


def one_stage(num_microbatches: int) -> list[Action]:
    """Return the training order of a stage that holds the whole model: each backward right after its forward.

    ``one_stage(2)`` is ``0F0 0B0 0F1 0B1``; only one micro-batch's activations live at a time.
    """
    return [Action(0, kind, n) for n in range(num_microbatches) for kind in (Kind.FORWARD, Kind.BACKWARD)]


def forward_only(num_microbatches: int) -> list[Action]:
    """Return the order of an evaluation: ``0F0 0F1 ...``."""
    return [Action(0, Kind.FORWARD, n) for n in range(num_microbatches)]


def with_reductions(program: Program, num_blocks: int) -> list[Action]:
    """Lower a training program: each block's gradients are reduced as soon as its last backward is done.

    A stage's last backward is cut into its blocks, from the last to the first, and each is followed by the block's
    reduction, so that the exchange overlaps the backward of the blocks before it: ``0B1`` of two blocks becomes
    ``0B1/1 0R/1 0B1/0 0R/0``. A program without a backward (a rank without micro-batches) still reduces every block,
    since the other data ranks wait for it.
    """
    last = max((i for i, action in enumerate(program) if action.kind is Kind.BACKWARD), default=None)
    lowered: list[Action] = []
    for i, action in enumerate(program):
        if i != last:
            lowered.append(action)
            continue
        for block in reversed(range(num_blocks)):
            lowered.append(Action(action.stage, Kind.BACKWARD, action.microbatch, block))
            lowered.append(Action(action.stage, Kind.REDUCE, block=block))
    if last is None:
        lowered.extend(Action(0, Kind.REDUCE, block=block) for block in reversed(range(num_blocks)))
    return lowered
