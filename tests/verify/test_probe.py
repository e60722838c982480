"""Oracle: one process in float64, the whole batch at once.

Every layout must give its loss, gradient norm, gradients and updated values to 1e-10. Labels are dropped at random, so
micro-batches hold different numbers of valid tokens.
"""

import itertools
import os
from functools import cache

import pytest

from megalm.verify.compare import Tolerance, compare
from megalm.verify.probe import Probe
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
    seen_alone,
    seen_by_rank,
)

CASES = [
    # model, layout, sequence parallel, micro-batch size, attention reset
    (GPT2, {"dp": 2}, False, 2, False),
    (GPT2, {"dp": 3}, False, 3, True),
    (GPT2, {"dp": 4}, False, 2, False),
    (GPT2, {"tp": 2}, False, 5, False),
    (GPT2, {"tp": 2}, True, 12, True),
    (GPT2, {"tp": 5}, True, 4, False),
    (GPT2, {"dp": 2, "tp": 2}, True, 4, False),
    (GPT2_UNTIED, {"dp": 2, "tp": 2}, False, 1, False),
    (GPT2_UNTIED, {"tp": 3}, True, 12, False),
    (NEOX, {"tp": 2}, True, 6, False),
    (NEOX, {"tp": 4}, False, 12, True),
    (NEOX, {"dp": 2, "tp": 2}, True, 3, False),
    (NEOX_TIED, {"tp": 5}, False, 12, False),
    (NEOX_TIED, {"dp": 4}, False, 3, True),
    (LLAMA, {"tp": 2}, True, 4, False),
    (LLAMA, {"tp": 4}, False, 12, False),
    (LLAMA, {"tp": 3}, True, 2, True),
    (LLAMA, {"dp": 2, "tp": 2}, False, 2, False),
    (LLAMA_TIED, {"tp": 5}, True, 12, False),
    (LLAMA_TIED, {"tp": 2}, False, 5, True),
    (LLAMA_TIED, {"dp": 2, "tp": 2}, True, 6, False),
]
if os.environ.get("MEGALM_TEST_FULL"):
    layouts = [{"dp": 2}, {"dp": 3}, {"dp": 4}, {"tp": 2}, {"tp": 3}, {"tp": 4}, {"tp": 5}, {"dp": 2, "tp": 2}]
    CASES = [
        (model, layout, sequence_parallel, micro_batch_size, reset)
        for model, layout, sequence_parallel, micro_batch_size, reset in itertools.product(
            MODELS, layouts, (False, True), (1, 5, 12), (False, True)
        )
        if layout.get("tp", 1) <= MODELS[model]["num_attention_heads"] and (layout.get("tp") or not sequence_parallel)
    ]


@cache
def alone(model: str, reset: bool) -> Probe:
    return seen_alone(run_file(model, data={"reset_attention": reset}))


@pytest.mark.parametrize(("model", "layout", "sequence_parallel", "micro_batch_size", "reset"), CASES)
def test_layout_does_not_change_the_result(
    ranks: RankPool, model: str, layout: dict[str, int], sequence_parallel: bool, micro_batch_size: int, reset: bool
) -> None:
    config = run_file(
        model,
        layout=layout,
        tensor={"sequence_parallel": sequence_parallel},
        train={"micro_batch_size": micro_batch_size},
        data={"reset_attention": reset},
    )
    assert_as_alone(ranks, config, alone(model, reset), Tolerance.of("fp64"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("micro_batch_size", [1, 5])
def test_accumulation_does_not_change_the_result(model: str, micro_batch_size: int) -> None:
    config = run_file(model, train={"micro_batch_size": micro_batch_size})
    findings = compare(alone(model, False), [seen_alone(config)], Tolerance.of("fp64"), config.optimizer.lr)
    assert [finding for finding in findings if not finding.agrees] == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layout_agrees_within_the_rounding_of_the_dtype(ranks: RankPool, precision: str) -> None:
    sections = {"train": {"precision": precision, "micro_batch_size": 4}}
    reference = seen_alone(run_file(GPT2, **sections))
    sound, faulty = (
        ranks.run(4, seen_by_rank, run_file(GPT2, **sections, layout={"dp": 2, "tp": 2}), fault)
        for fault in (None, "gradients averaged twice")
    )
    findings = compare(reference, sound, Tolerance.of(precision), 1e-2)
    assert [finding for finding in findings if not finding.agrees] == []
    assert [finding for finding in compare(reference, faulty, Tolerance.of(precision), 1e-2) if not finding.agrees]
