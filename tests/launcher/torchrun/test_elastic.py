"""Oracle: every dp tried by hand against the rules of the run file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.launcher.torchrun.elastic import check_placed, fit
from tests.verify.runs import GPT2, run_file


@settings(deadline=None, max_examples=60)
@given(
    world_size=st.integers(1, 20),
    dp=st.sampled_from([1, 2, 3, 4, 6, 12]),
    pp=st.integers(1, 2),
    tp=st.integers(1, 2),
    shard_size=st.sampled_from([None, 1, 2, 3]),
)
def test_the_largest_dp_that_is_legal(world_size: int, dp: int, pp: int, tp: int, shard_size: int | None) -> None:
    if shard_size is not None and dp % shard_size:
        return
    zero = {"stage": 1, "shard_size": shard_size}
    run = run_file(GPT2, run={"elastic": True}, layout={"dp": dp, "pp": pp, "tp": tp}, zero=zero)
    legal = [
        smaller
        for smaller in range(1, dp + 1)
        if smaller * pp * tp <= world_size and 12 % smaller == 0 and (shard_size is None or smaller % shard_size == 0)
    ]
    if not legal:
        with pytest.raises(UserError):
            fit(run, world_size)
        return
    found = fit(run, world_size)
    assert found.config.layout.dp == max(legal)
    assert found.spare == world_size - max(legal) * pp * tp
    assert found.config == run_file(
        GPT2, run={"elastic": True}, layout={"dp": max(legal), "pp": pp, "tp": tp}, zero=zero
    )


def test_what_the_log_says() -> None:
    run = run_file(GPT2, run={"elastic": True}, layout={"dp": 4, "tp": 2})
    assert fit(run, 8).sentence() == "elastic: dp=4 of 4"
    assert fit(run, 7).sentence() == "elastic: dp=3 of 4, 1 of 7 ranks wait"


def test_too_few_ranks_for_one_replica_are_one_sentence() -> None:
    run = run_file(GPT2, run={"elastic": True}, layout={"dp": 2, "pp": 2, "tp": 2})
    with pytest.raises(UserError, match="pp x cp x tp = 2 x 1 x 2 = 4 ranks, but there are 3"):
        fit(run, 3)


def test_a_layout_that_is_not_elastic_must_fill_the_ranks() -> None:
    assert check_placed(run_file(GPT2, run={"elastic": True}, layout={"dp": 2, "tp": 2}), 6).spare == 2
    rigid = run_file(GPT2, layout={"dp": 2, "tp": 2})
    assert check_placed(rigid, 4).config == rigid
    with pytest.raises(UserError, match="needs 4 ranks, but there are 6"):
        check_placed(rigid, 6)
