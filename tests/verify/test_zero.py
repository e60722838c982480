"""Oracle: one process in float64, the whole batch at once; no ZeRO stage may change its numbers."""

import itertools
import os
from typing import Any

import pytest

from megalm.verify.compare import Tolerance
from tests.ranks import RankPool
from tests.verify.runs import (
    GPT2,
    GPT2_UNTIED,
    LLAMA,
    LLAMA_TIED,
    MODELS,
    NEOX,
    NEOX_TIED,
    assert_as_alone,
    run_file,
)
from tests.verify.test_probe import alone

SP: dict[str, Any] = {"tensor": {"sequence_parallel": True}}

CASES: list[tuple[int, str, dict[str, int], int, str, dict[str, Any]]] = [
    # stage, model, layout, micro-batch size, schedule, further sections
    (1, GPT2, {"dp": 2}, 4, "1f1b", {}),
    (2, GPT2, {"dp": 4}, 1, "gpipe", {}),
    (3, GPT2, {"dp": 3}, 2, "1f1b", {}),
    (1, GPT2, {"dp": 2, "tp": 2}, 2, "1f1b", SP),
    (2, NEOX, {"dp": 2, "tp": 2}, 3, "1f1b", {}),
    (3, LLAMA, {"dp": 2, "tp": 2}, 2, "1f1b", SP),
    (3, LLAMA_TIED, {"dp": 3, "tp": 2}, 4, "1f1b", {}),
    (1, NEOX_TIED, {"dp": 2, "pp": 2}, 2, "1f1b", {}),
    (2, GPT2, {"dp": 2, "pp": 2}, 1, "zb-h1", {}),
    (3, GPT2, {"dp": 2, "pp": 2}, 2, "1f1b", {"zero": {"prefetch": 0}}),
    (3, LLAMA_TIED, {"dp": 2, "pp": 2}, 1, "zb-v", {"zero": {"prefetch": 3}}),
    (2, LLAMA_TIED, {"dp": 2, "pp": 2}, 2, "dualpipe-v", {}),
    (3, NEOX, {"dp": 2, "pp": 2}, 3, "zb-h2", {}),
    (3, GPT2_UNTIED, {"dp": 2, "pp": 2}, 2, "interleaved", {}),
    (3, NEOX_TIED, {"dp": 2, "tp": 2, "pp": 2}, 3, "1f1b", SP),
    (2, GPT2, {"dp": 2, "tp": 2, "pp": 2}, 6, "gpipe", {}),
    (1, LLAMA, {"dp": 2, "tp": 2, "pp": 2}, 2, "zb-h1", SP),
    (1, GPT2, {"dp": 4}, 3, "1f1b", {"zero": {"shard_size": 2}}),
    (2, NEOX, {"dp": 4}, 1, "1f1b", {"zero": {"shard_size": 2}}),
    (3, GPT2, {"dp": 4, "tp": 2}, 3, "1f1b", {"zero": {"shard_size": 2}}),
    (3, GPT2, {"dp": 2}, 12, "1f1b", {"data": {"reset_attention": True}}),
]
if os.environ.get("MEGALM_TEST_FULL"):
    layouts = [{"dp": 2}, {"dp": 4}, {"dp": 3}, {"dp": 2, "tp": 2}, {"dp": 2, "pp": 2}, {"dp": 2, "tp": 2, "pp": 2}]
    CASES += [
        (stage, model, layout, 2, schedule, {"zero": {"prefetch": prefetch}})
        for stage, model, layout, schedule, prefetch in itertools.product(
            (1, 2, 3), MODELS, layouts, ("1f1b", "zb-v"), (0, 1)
        )
        if (schedule == "1f1b" or "pp" in layout) and (stage == 3 or not prefetch)
    ]


@pytest.mark.parametrize(("stage", "model", "layout", "micro_batch_size", "schedule", "sections"), CASES)
def test_no_stage_changes_the_result(
    ranks: RankPool,
    stage: int,
    model: str,
    layout: dict[str, int],
    micro_batch_size: int,
    schedule: str,
    sections: dict[str, Any],
) -> None:
    config = run_file(
        model,
        **{name: fields for name, fields in sections.items() if name != "zero"},
        layout=layout,
        zero={"stage": stage, **sections.get("zero", {})},
        pipeline={"schedule": schedule},
        train={"micro_batch_size": micro_batch_size},
    )
    assert_as_alone(ranks, config, alone(model, config.data.reset_attention), Tolerance.of("fp64"))
