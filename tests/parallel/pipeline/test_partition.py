"""Oracle: every cut, tried one after the other."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.models.counts import flops_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.partition import partition
from tests.verify.runs import GPT2, run_file


def costs_of(costs: list[int], spans: list[range]) -> list[int]:
    return [sum(costs[block] for block in span) for span in spans]


def every_cut(costs: list[int], num_stages: int) -> list[list[int]]:
    cuts = combinations(range(1, len(costs)), num_stages - 1)
    return [costs_of(costs, [range(a, b) for a, b in pairwise((0, *inner, len(costs)))]) for inner in cuts]


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=9), st.data())
def test_no_cut_is_better(costs: list[int], data: st.DataObject) -> None:
    num_stages = data.draw(st.integers(1, len(costs)))
    spans = partition(costs, num_stages)
    assert [block for span in spans for block in span] == list(range(len(costs)))
    assert all(spans)
    found = costs_of(costs, spans)
    least = min(max(stages) for stages in every_cut(costs, num_stages))
    assert max(found) == least
    evenest = min(sum(c * c for c in stages) for stages in every_cut(costs, num_stages) if max(stages) == least)
    assert sum(cost * cost for cost in found) == evenest


def test_a_large_vocabulary_leaves_the_head_alone_on_its_stage() -> None:
    shape = DecoderShape.of(run_file(GPT2, model={"vocab_size": 5_000_000, "num_hidden_layers": 6}).model)
    assert partition([block.whole for block in flops_by_block(shape, 13)], 2) == [range(7), range(7, 8)]


def test_hundreds_of_blocks_on_64_stages() -> None:
    spans = partition([0.1, *[1.0] * 254, 3.0], 64)
    assert len(spans) == 64
    assert max(len(span) for span in spans) <= 5


def test_sizes_of_ones_own() -> None:
    assert partition([1.0] * 6, 3, [1, 4, 1]) == [range(1), range(1, 5), range(5, 6)]


@pytest.mark.parametrize(("sizes", "what"), [([3, 2], "gives 5 blocks to 2"), ([2, 2, 2], "gives 6 blocks to 3")])
def test_sizes_that_do_not_add_up_are_refused(sizes: list[int], what: str) -> None:
    with pytest.raises(UserError, match=rf"pipeline.blocks_per_stage=.* {what} stages, but there are 6 blocks"):
        partition([1.0] * 6, 2, sizes)


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="the pipeline has 7 stages, but the model has only 6 blocks"):
        partition([1.0] * 6, 7)
