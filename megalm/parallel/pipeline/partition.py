"""Which blocks each stage holds: consecutive spans, every block in exactly one. No torch."""

import math
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

from megalm.errors import UserError


def partition(costs: Sequence[float], num_stages: int, sizes: Sequence[int] | None = None) -> list[range]:
    """Cut the blocks into stages so that the costliest stage is as cheap as it can be, and the rest as even.

    Args:
        costs: of each block, in any unit.
        num_stages: how many spans; none is empty.
        sizes: how many blocks each stage holds, where the user says so.

    Raises:
        UserError: there are more stages than blocks, or the sizes do not add up.
    """
    if num_stages > len(costs):
        raise UserError(
            f"the pipeline has {num_stages} stages, but the model has only {len(costs)} blocks (embedding, layers, "
            "head) to put on them; lower layout.pp or pipeline.stages_per_rank."
        )
    if sizes is not None:
        _check_sizes(sizes, num_stages, len(costs))
        return [range(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]
    sums = list(accumulate(costs, initial=0.0))
    bound = _least_bound(sums, num_stages)
    return [range(start, stop) for start, stop in pairwise(_evenest_cuts(sums, num_stages, bound))]


def _check_sizes(sizes: Sequence[int], num_stages: int, num_blocks: int) -> None:
    if len(sizes) != num_stages or sum(sizes) != num_blocks:
        raise UserError(
            f"pipeline.blocks_per_stage={list(sizes)} gives {sum(sizes)} blocks to {len(sizes)} stages, but there are "
            f"{num_blocks} blocks (embedding, layers, head) and {num_stages} stages; make both agree."
        )


def _least_bound(sums: Sequence[float], num_stages: int) -> float:
    """Return the cost of the costliest stage in the best cut."""
    num_blocks = len(sums) - 1

    @cache
    def best(stages: int, stop: int) -> float:
        if stages == 1:
            return sums[stop]
        return min(max(best(stages - 1, cut), sums[stop] - sums[cut]) for cut in range(stages - 1, stop))

    return best(num_stages, num_blocks)


def _evenest_cuts(sums: Sequence[float], num_stages: int, bound: float) -> tuple[int, ...]:
    """Return the cuts with the least sum of squared stage costs, none above ``bound``."""
    num_blocks, allowed = len(sums) - 1, bound * (1 + 1e-12)

    @cache
    def best(stages: int, stop: int) -> tuple[float, tuple[int, ...]]:
        if stages == 0:
            return (0.0, (0,)) if stop == 0 else (math.inf, ())
        found: tuple[float, tuple[int, ...]] = math.inf, ()
        for cut in range(stages - 1, stop):
            cost = sums[stop] - sums[cut]
            before, cuts = best(stages - 1, cut) if cost <= allowed else (math.inf, ())
            found = min(found, (before + cost * cost, (*cuts, stop)))
        return found

    return best(num_stages, num_blocks)[1]
