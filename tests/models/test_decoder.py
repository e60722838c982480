"""Oracle: Hugging Face transformers, randomly initialised, in float64 on one process.

transformers computes rotary angles and root-mean-square norms in float32 whatever the model's dtype, so the families
that use them are judged to 1e-6; a wrong formula shows as 1e-3.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.data.loader import Rows
from megalm.mesh import Mesh
from megalm.objectives.clm import clm
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state, named_parameters
from megalm.validation import validate
from tests.models.hugging_face import hugging_face_model, renamed

EXACT, SINGLE = 1e-10, 1e-6
GRADIENT_FLOOR = 1e-6
"""Of the model's largest gradient entry: below it is rounding."""
NEARLY_NONE = 1e-12
"""A dropout so rare that nothing drops, but the path that draws masks is taken."""
VOCAB_SIZE, SEQ_LENGTH = 61, 11

GPT2 = {"family": "gpt2", "hidden_size": 24, "num_attention_heads": 3}
NEOX = {"family": "gpt_neox", "hidden_size": 24, "num_attention_heads": 3}
LLAMA = {"family": "llama", "hidden_size": 24, "num_attention_heads": 6}
MISTRAL, QWEN2 = ({**LLAMA, "family": family, "num_key_value_heads": 2} for family in ("mistral", "qwen2"))
WINDOW = {"attention": {"pattern": "sliding_window", "window": 3}}
FROM_ITS_LAST_LAYER = {"attention": {"pattern": "sliding_window", "window": 4, "num_dense_layers": 1}}
SCALED = {
    **{"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 8,
}
CASES: dict[str, tuple[dict[str, Any], float]] = {
    "gpt2": (GPT2, EXACT),
    "gpt2 untied, other sizes": (
        {**GPT2, "tie_word_embeddings": False, "intermediate_size": 37, "layer_norm_epsilon": 1e-3},
        EXACT,
    ),
    "gpt2, the path that drops": (
        {**GPT2, "embd_pdrop": NEARLY_NONE, "attn_pdrop": NEARLY_NONE, "resid_pdrop": NEARLY_NONE},
        EXACT,
    ),
    "gpt_neox, a quarter rotates": (NEOX, SINGLE),
    "gpt_neox, all rotates": ({**NEOX, "rotary_pct": 1.0, "rotary_emb_base": 500.0}, SINGLE),
    "gpt_neox, nothing rotates": ({**NEOX, "rotary_pct": 0.0}, EXACT),
    "gpt_neox, sequential residual": ({**NEOX, "use_parallel_residual": False, "rotary_pct": 0.5}, SINGLE),
    "gpt_neox, tied, no attention bias": ({**NEOX, "tie_word_embeddings": True, "attention_bias": False}, SINGLE),
    "llama": (LLAMA, SINGLE),
    "llama, 6 heads in 3 groups, tied": ({**LLAMA, "num_key_value_heads": 3, "tie_word_embeddings": True}, SINGLE),
    "llama, 4 heads in one group": ({**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 1}, SINGLE),
    "llama, biases": ({**LLAMA, "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}, SINGLE),
    "llama, its own head size": (
        {**LLAMA, "hidden_size": 18, "head_dim": 8, "num_key_value_heads": 2, "rms_norm_eps": 1e-3},
        SINGLE,
    ),
    "llama, rotation scaled as llama3": ({**LLAMA, "rope_theta": 20.0, "rope_scaling": SCALED}, SINGLE),
    "gpt_neox, rotation scaled linearly": (
        {**NEOX, "rotary_pct": 1.0, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
        SINGLE,
    ),
    "gpt_neox, tanh form of gelu": ({**NEOX, "hidden_act": "gelu_new"}, SINGLE),
    "mistral": (MISTRAL, SINGLE),
    "mistral, a window": ({**MISTRAL, **WINDOW}, SINGLE),
    "mistral, a window, the path that drops": ({**MISTRAL, **WINDOW, "attention_dropout": NEARLY_NONE}, SINGLE),
    "qwen2": (QWEN2, SINGLE),
    "qwen2, a window in its last layer": ({**QWEN2, **FROM_ITS_LAST_LAYER}, SINGLE),
    "llama, the path that drops": (
        {**LLAMA, "num_key_value_heads": 2, "attention_dropout": NEARLY_NONE},
        SINGLE,
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_of(model: dict[str, Any]) -> RunConfig:
    sizes = {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 16}
    return validate(
        RunConfig,
        {
            "model": {**sizes, **model},
            "data": {"train": [{"path": "not read"}]},
            "train": {"precision": "fp64", "seq_length": SEQ_LENGTH},
        },
    )


def state_of(config: RunConfig) -> TrainingState:
    """Build the model and move every value, so that no bias is 0, no norm is 1, and attention has a preference."""
    state = build_state(config, Mesh.alone())
    generator = torch.Generator().manual_seed(7)
    for parameter in state.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.add_(noise.to(parameter.dtype), alpha=0.2)
    state.model.train()
    return state


def rows_of(documents: list[list[int]] | None = None) -> Rows:
    """Return two samples; ``documents`` gives the lengths of each one's documents."""
    lengths = documents or [[SEQ_LENGTH + 1], [SEQ_LENGTH + 1]]
    tokens = np.random.Generator(np.random.PCG64(3)).integers(0, VOCAB_SIZE, (2, SEQ_LENGTH + 1))
    return Rows(tokens, np.array([np.repeat(np.arange(len(row)), row) for row in lengths], np.int32), np.arange(2))


def with_scale(batch: MicroBatch) -> MicroBatch:
    """Scale the loss to the mean of the tokens that are learned."""
    return replace(batch, loss_scale=1 / int((batch.labels_bs != IGNORED).sum()))


def learned(state: TrainingState, batch: MicroBatch) -> tuple[float, dict[str, Tensor]]:
    """Return megalm's loss and every gradient, by megalm's names."""
    loss = state.engine.run(state.programs.training(1), [batch])
    slots = [(bucket, slot) for bucket in state.buckets for slot in bucket.slots]
    return loss.item(), {slot.spec.name: slot.view(bucket.gradients.tensor) for bucket, slot in slots}


def values_of(state: TrainingState) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in named_parameters(state).items()}


def difference(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    return float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), floor)


def assert_same_gradients(config: RunConfig, ours: dict[str, Tensor], model: nn.Module, tolerance: float) -> None:
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    mine = renamed(config.model, ours)
    assert mine.keys() == theirs.keys()
    floor = GRADIENT_FLOOR * max(float(gradient.abs().max()) for gradient in theirs.values())
    apart = {name: difference(mine[name], theirs[name], floor) for name in theirs}
    assert {name: far for name, far in apart.items() if not far <= tolerance} == {}


@pytest.mark.parametrize(("fields", "tolerance"), CASES.values(), ids=CASES)
def test_loss_and_gradients(fields: dict[str, Any], tolerance: float) -> None:
    config = run_of(fields)
    state = state_of(config)
    batch = clm(rows_of(), reset_attention=False)
    labels = batch.labels_bs.clone()
    labels[0, 4] = IGNORED
    batch = with_scale(replace(batch, labels_bs=labels))
    model = hugging_face_model(config.model, values_of(state))

    loss, gradients = learned(state, batch)
    logits = model(batch.tokens_bs).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels_bs.flatten(), ignore_index=IGNORED)
    expected.backward()

    assert abs(loss - expected.item()) <= tolerance * expected.item()
    assert_same_gradients(config, gradients, model, tolerance)
    state.model.eval()
    with torch.no_grad():
        assert difference(state.model.logits(batch), logits.flatten(0, 1)) <= tolerance  # type: ignore[operator]


PACKED = {
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "llama": {**LLAMA, "num_key_value_heads": 3},
    "mistral, a window": {**MISTRAL, **WINDOW},
}


@pytest.mark.parametrize("fields", [*PACKED.values(), {**GPT2, "attn_pdrop": NEARLY_NONE}], ids=[*PACKED, "drops"])
def test_packed_documents_learn_as_if_each_were_alone(fields: dict[str, Any]) -> None:
    config = run_of(fields)
    state = state_of(config)
    rows = rows_of([[5, 1, 6], [3, 9]])
    model = hugging_face_model(config.model, values_of(state))

    loss, gradients = learned(state, with_scale(clm(rows, reset_attention=True)))
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(2):
        for document in np.unique(rows.documents_bs[row]):
            tokens = torch.from_numpy(rows.tokens_bs[row][rows.documents_bs[row] == document]).unsqueeze(0)
            if tokens.shape[1] > 1:
                logits = model(tokens[:, :-1]).logits
                total = total + F.cross_entropy(logits.flatten(0, 1), tokens[0, 1:], reduction="sum")
                count += tokens.shape[1] - 1
    expected = total / count
    expected.backward()

    tolerance = EXACT if fields["family"] == "gpt2" else SINGLE
    assert count == 2 * SEQ_LENGTH - 3  # each document's first token is asked of nobody
    assert abs(loss - expected.item()) <= tolerance * expected.item()
    assert_same_gradients(config, gradients, model, tolerance)
