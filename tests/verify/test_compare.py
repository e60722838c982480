"""Oracle: each planted fault changes the result, so the comparison must refuse it and name a tensor."""

from dataclasses import replace

import pytest

from megalm.verify.compare import Tolerance, compare
from tests.ranks import RankPool
from tests.verify.faults import FAULTS
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, NEOX, run_file, seen_by_rank
from tests.verify.test_update_rules import WIDE, alone

ATTENTION = "model.layers.0.self_attn"

SHOWN_BY = {
    # fault: (model, layout, sequence parallel, first finding, the tensor that is named)
    "gradients not summed over dp": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "model.embed_tokens.weight"),
    "gradients averaged twice": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "model.embed_tokens.weight"),
    "one bucket never reduced": (NEOX, {"dp": 2}, False, "step 1 gradient norm", "model.layers.0."),
    "norm counts replicas": (GPT2, {"tp": 2}, False, "step 1 gradient norm", "model."),
    "norm not summed over tp": (GPT2, {"tp": 2}, False, "step 1 gradient norm", "model."),
    "loss as mean of means": (GPT2, {"dp": 2}, False, "step 1 loss", "model."),
    "only the last micro-batch learns": (NEOX, {"dp": 2}, False, "step 1 gradient norm", "model."),
    "query heads read wrong key heads": (LLAMA, {"tp": 2}, False, "step 1 loss", "model."),
    "wrong slice of q": (GPT2_UNTIED, {"tp": 2}, False, "step 1 loss", "model."),
    "dropout by rank": (GPT2, {"dp": 2}, False, "step 1 loss", "model."),
    "attention dropout by local head": (GPT2, {"tp": 5}, False, "step 1 loss", "model."),
    "row-parallel sum missing": (NEOX, {"tp": 2}, False, "step 1 loss", "model."),
    "input gradient not summed": (NEOX, {"tp": 2}, False, "step 1 gradient norm", "model."),
    "norm gradients partial": (NEOX, {"tp": 2}, True, "step 1 gradient norm", "norm"),
    "shared key heads not summed": (LLAMA, {"tp": 2}, False, "step 1 gradient norm", f"{ATTENTION}.k_proj.weight"),
    "softmax over the local vocabulary": (NEOX, {"tp": 2}, False, "step 1 loss", "model."),
    "bias added by every rank": (GPT2, {"tp": 2}, False, "step 2 loss", "model."),
    "same samples on every data rank": (GPT2, {"dp": 2}, False, "step 1 loss", "model."),
    "positions drawn by rank": (GPT2, {"tp": 2}, False, "step 1 loss", "model."),
    "tied copies not summed": (GPT2, {"pp": 2}, False, "step 1 gradient norm", "model.embed_tokens.weight"),
    "tied copy counted in the norm": (GPT2, {"pp": 2}, False, "step 1 gradient norm", "model."),
    "weight half dropped": (NEOX, {"pp": 2}, False, "step 1 gradient norm", "_proj.weight"),
    "gradient doubled between stages": (LLAMA, {"pp": 2}, False, "step 1 gradient norm", "model."),
    "rows shifted between stages": (GPT2_UNTIED, {"pp": 2}, False, "step 1 loss", "model."),
    "updated shares not published": (GPT2, {"dp": 2}, False, "step 1 value replicas", "model.embed_tokens.weight"),
    "norm of the own shard": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "model."),
    "only the last micro-batch's share": (NEOX, {"dp": 2}, False, "step 1 gradient norm", "model."),
    "shards drawn alike": (GPT2_UNTIED, {"dp": 2}, False, "step 1 loss", "model."),
    "stale values gathered": (LLAMA, {"dp": 2}, False, "step 2 loss", "model."),
    "ratios not summed over tp": (GPT2, {"tp": 2}, False, "step 1 value replicas", "model."),
    "ratios of the own shard": (GPT2, {"dp": 2}, False, "step 1 value", "model."),
    "ratios of vectors": (NEOX, {"tp": 2}, False, "step 1 value", "norm"),
    "ratios count shared rows twice": (LLAMA, {"tp": 2}, False, "step 1 value", f"{ATTENTION}.k_proj.weight"),
    "ratios skip tied copies": (GPT2, {"pp": 2}, False, "step 1 value replicas", "model.embed_tokens.weight"),
    "absmax of the own slices": (GPT2, {"tp": 2}, False, "step 2 value", "proj.weight"),
    "absmax of the own shard": (GPT2, {"dp": 2}, False, "step 2 value", "weight"),
    "absmax of local blocks": (GPT2, {"tp": 2}, False, "step 2 value", "mlp.down_proj.weight"),
    "recomputed dropout drawn anew": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "model."),
    "head recomputed and counted twice": (GPT2_UNTIED, {"dp": 2}, False, "step 1 gradient norm", "lm_head.weight"),
    "norm without gradient when recomputed": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "input_layernorm"),
    "attention unsummed when recomputed": (GPT2, {"tp": 2}, False, "step 1 gradient norm", "model."),
    "recomputed from another layer's inputs": (LLAMA, {"tp": 2}, False, "step 1 gradient norm", "model."),
    "offloaded gradients not awaited": (NEOX, {"dp": 2}, False, "step 1 value", "model."),
    "offloaded values not copied back": (GPT2, {"dp": 2}, False, "step 1 value", "model."),
    "offloaded views lose their strides": (NEOX, {"dp": 2}, False, "step 1 gradient norm", "model."),
    "offloaded read before it is back": (GPT2, {"dp": 2}, False, "step 1 gradient norm", "model."),
}

ZERO_STAGES = {
    "updated shares not published": 1,
    "norm of the own shard": 2,
    "only the last micro-batch's share": 2,
    "shards drawn alike": 1,
    "stale values gathered": 3,
    "ratios of the own shard": 1,
    "absmax of the own shard": 2,
}
RULES = {"ratios": "lamb", "absmax": "adamw8bit"}
"""Which update rule a fault is about, by its first word."""
RECOMPUTE = {
    "recomputed dropout drawn anew": {"mode": "full"},
    "norm without gradient when recomputed": {"mode": "full"},
    "attention unsummed when recomputed": {"mode": "full"},
    "recomputed from another layer's inputs": {"mode": "selective"},
}
"""What is computed again where a fault is about that."""


def test_every_fault_has_a_case() -> None:
    assert SHOWN_BY.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_named(ranks: RankPool, fault: str) -> None:
    model, layout, sequence_parallel, first, tensor = SHOWN_BY[fault]
    rule = next((rule for word, rule in RULES.items() if fault.startswith(word)), "adamw")
    offload = "cpu" if fault.startswith("offloaded") else "none"
    config = run_file(
        model,
        layout=layout,
        tensor={"sequence_parallel": sequence_parallel},
        pipeline={"schedule": "zb-h1" if "pp" in layout else "1f1b"},
        recompute={**RECOMPUTE.get(fault, {}), "offload": offload},
        train={"micro_batch_size": 2},
        zero={"stage": ZERO_STAGES.get(fault, 0), "offload": offload},
        optimizer={"name": rule},
        **(WIDE if rule == "adamw8bit" else {}),
    )
    seen = ranks.run(config.layout.world_size, seen_by_rank, config, fault)
    wrong = [
        finding
        for finding in compare(alone(rule, model), seen, Tolerance.of("fp64"), config.optimizer.lr)
        if not finding.agrees
    ]
    assert wrong[0].what == first
    named = next(finding.detail for finding in wrong if finding.detail)
    assert tensor in named
    assert "ParamSpec(" in named


def test_a_parameter_that_no_rank_holds_is_named() -> None:
    reference = alone("adamw", NEOX)
    lost = "model.layers.1.mlp.up_proj.weight"
    rest = replace(reference, held=[held for held in reference.held if held.spec.name != lost])
    findings = compare(reference, [rest], Tolerance.of("fp64"), 1e-2)
    wrong = [finding for finding in findings if not finding.agrees]
    assert wrong[0].what == "step 1 gradient"
    assert wrong[0].detail == f"{lost} is held by no rank"
