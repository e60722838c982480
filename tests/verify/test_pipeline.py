"""Oracle: one process in float64, the whole batch at once: no schedule changes the loss, a gradient or a weight."""

import itertools
import os
from collections.abc import Mapping
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.runs import GPT2, LLAMA, NEOX, NEOX_TIED, assert_as_alone, run_file, seen_alone

SCHEDULES = {"gpipe": 1, "1f1b": 1, "interleaved": 2, "zb-h1": 1, "zb-h2": 1, "zb-v": 2, "dualpipe-v": 2}
FULL = bool(os.environ.get("MEGALM_TEST_FULL"))
CASES = [
    # model, layers, schedule, stages a rank, layout, sequence parallel, micro-batch size, attention reset
    *((GPT2, 2, name, "auto", {"pp": 2}, False, 3, False) for name in SCHEDULES),
    (GPT2, 5, "1f1b", "auto", {"pp": 4}, False, 2, True),
    (GPT2, 5, "zb-h1", "auto", {"pp": 4}, False, 5, False),
    (GPT2, 2, "zb-h2", "auto", {"pp": 3}, False, 1, False),
    (GPT2, 2, "1f1b", "auto", {"pp": 4}, False, 12, False),
    (GPT2, 6, "zb-v", "auto", {"pp": 4}, False, 1, False),
    (GPT2, 6, "dualpipe-v", "auto", {"pp": 3, "dp": 2}, False, 2, False),
    (GPT2, 6, "interleaved", 2, {"pp": 4}, False, 3, False),
    (GPT2, 4, "interleaved", 3, {"pp": 2}, False, 2, True),
    (GPT2, 3, "1f1b", "auto", {"pp": 2, "tp": 2}, True, 5, False),
    (GPT2, 3, "interleaved", 2, {"pp": 2, "tp": 2, "dp": 2}, True, 2, False),
    (LLAMA, 3, "zb-h1", "auto", {"pp": 2, "tp": 2}, True, 4, True),
    (LLAMA, 2, "gpipe", "auto", {"pp": 2, "dp": 2}, False, 4, False),
    (LLAMA, 4, "zb-v", "auto", {"pp": 2, "tp": 2}, False, 5, False),
    (NEOX, 4, "dualpipe-v", "auto", {"pp": 2, "tp": 2, "dp": 2}, True, 2, False),
    (NEOX, 2, "zb-h2", "auto", {"pp": 4, "tp": 2}, False, 2, False),
    (NEOX_TIED, 2, "zb-v", "auto", {"pp": 1}, False, 5, False),
    (NEOX_TIED, 4, "1f1b", "auto", {"pp": 3, "dp": 2}, False, 1, True),
]
if FULL:
    CASES += [
        (model, 6, name, "auto", {"pp": pp, "tp": tp, "dp": dp}, tp > 1, micro_batch_size, False)
        for model, name, pp, tp, dp, micro_batch_size in itertools.product(
            (GPT2, LLAMA), SCHEDULES, (2, 3, 4), (1, 2), (1, 2), (2, 5)
        )
        if pp * tp * dp <= 8
    ]
    CASES += [(GPT2, 10, "interleaved", 3, {"pp": 4}, False, size, False) for size in (1, 2, 5, 12)]


@pytest.mark.parametrize(
    ("model", "layers", "schedule", "stages_per_rank", "layout", "sequence_parallel", "micro_batch_size", "reset"),
    CASES,
)
def test_no_schedule_changes_the_result(
    ranks: RankPool,
    model: str,
    layers: int,
    schedule: str,
    stages_per_rank: int | str,
    layout: dict[str, int],
    sequence_parallel: bool,
    micro_batch_size: int,
    reset: bool,
) -> None:
    shared: dict[str, Mapping[str, Any]] = {"model": {"num_hidden_layers": layers}, "data": {"reset_attention": reset}}
    config = run_file(
        model,
        **shared,
        layout=layout,
        pipeline={"schedule": schedule, "stages_per_rank": stages_per_rank},
        tensor={"sequence_parallel": sequence_parallel},
        train={"micro_batch_size": micro_batch_size},
    )
    assert_as_alone(ranks, config, seen_alone(run_file(model, **shared)), Tolerance.of("fp64"))


@pytest.mark.parametrize("sizes", [[1, 3], [3, 1], [2, 2]])
def test_a_cut_of_ones_own_does_not_change_the_result(ranks: RankPool, sizes: list[int]) -> None:
    config = run_file(GPT2, layout={"pp": 2}, pipeline={"blocks_per_stage": sizes}, train={"micro_batch_size": 4})
    seen = assert_as_alone(ranks, config, seen_alone(run_file(GPT2)), Tolerance.of("fp64"))
    names = [{held.spec.name for held in probe.held} for probe in seen]
    assert names[0] & names[1] == {"model.embed_tokens.weight"}
    assert ("model.layers.1.mlp.up_proj.weight" in names[0]) is (sizes == [3, 1])
