"""Oracle: Hugging Face transformers, randomly initialised, on one process."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.run_config import RunConfig
from megalm.training.build import named_parameters
from megalm.validation import validate
from tests.models.hugging_face_encoders import encoder_of, renamed
from tests.models.test_decoder import difference, learned, state_of

VOCAB_SIZE, B, S = 61, 3, 11
PAD = 1
PAIR_WEIGHT = 0.7
TOLERANCES = {"fp64": 1e-10, "fp32": 1e-5}
GRADIENT_FLOORS = {"fp64": 1e-5, "fp32": 1e-2}
"""Of the model's largest gradient entry: below it is rounding; a key's bias has no gradient but that."""
NEARLY_NONE = 1e-15
"""A dropout so rare that nothing drops, but the path that draws masks is taken."""

BERT = {"family": "bert", "hidden_size": 24, "num_attention_heads": 3}
ROBERTA = {"family": "roberta", "hidden_size": 24, "num_attention_heads": 3}
CASES: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "bert, other sizes": {
        **BERT,
        "intermediate_size": 37,
        "layer_norm_eps": 1e-3,
        "type_vocab_size": 3,
        "hidden_act": "relu",
        "vocab_size": 1009,
    },
    "bert, untied": {**BERT, "tie_word_embeddings": False},
    "bert, the path that drops": {
        **BERT,
        "hidden_dropout_prob": NEARLY_NONE,
        "attention_probs_dropout_prob": NEARLY_NONE,
    },
    "roberta": ROBERTA,
    "roberta, segments, relu": {**ROBERTA, "type_vocab_size": 2, "hidden_act": "relu"},
    "roberta, later positions": {**ROBERTA, "pad_token_id": 4},
}


def run_of(model: dict[str, Any], precision: str = "fp64") -> RunConfig:
    sizes = {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 16}
    return validate(
        RunConfig,
        {
            "model": {**sizes, **model},
            "objective": {"name": "mlm_nsp", "nsp": False},
            "data": {"train": [{"path": "not read"}]},
            "train": {"precision": precision, "seq_length": S},
        },
    )


def batch_of(config: RunConfig, *, pairs: bool, padded: bool = True) -> MicroBatch:
    """Return samples of different lengths in two parts, a few tokens asked, one sample of unknown class."""
    generator = torch.Generator().manual_seed(3)
    model = config.model
    pad = model.pad_token_id or 0
    lengths = torch.tensor([[S], [7], [4]] if padded else [[S]] * B)
    places = torch.arange(S).expand(B, S)
    real = places < lengths
    tokens = torch.randint(pad + 1, model.vocab_size, (B, S), generator=generator).masked_fill(~real, pad)
    said = torch.randint(0, model.vocab_size, (B, S), generator=generator)
    asked = real & (torch.rand(B, S, generator=generator) < 0.3)
    asked[0, 2] = asked[2, 1] = True
    labels = said.masked_fill(~asked, IGNORED)
    segments = (places >= 3).long() if (model.type_vocab_size or 1) > 1 else None
    return MicroBatch(
        tokens,
        labels,
        places,
        torch.arange(B * S).view(B, S),
        1 / int(asked.sum()),
        torch.where(real, 0, -1).int() if padded else None,
        segments_bs=segments,
        classes_b=torch.tensor([1, IGNORED, 0]) if pairs else None,
        class_loss_scale=PAIR_WEIGHT / 2 if pairs else 0.0,
    )


def by_transformers(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the loss, the logits of the tokens, and those of the samples."""
    mask = torch.ones_like(batch.tokens_bs) if batch.documents_bs is None else (batch.documents_bs >= 0).long()
    out = model(batch.tokens_bs, attention_mask=mask, token_type_ids=batch.segments_bs)
    pairs = batch.classes_b is not None
    logits = out.prediction_logits if pairs else out.logits
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels_bs.flatten(), ignore_index=IGNORED)
    if batch.classes_b is None:
        return loss, logits, None
    asked = F.cross_entropy(out.seq_relationship_logits, batch.classes_b, ignore_index=IGNORED)
    return loss + PAIR_WEIGHT * asked, logits, out.seq_relationship_logits


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize(
    ("name", "pairs", "precision"),
    [
        *((name, name.startswith("bert"), "fp64") for name in CASES),
        *((name, name.startswith("bert"), "fp32") for name in ("bert", "roberta")),
        ("bert", False, "fp64"),
    ],
)
def test_loss_logits_and_gradients(name: str, pairs: bool, precision: str, padded: bool) -> None:
    config = run_of(CASES[name], precision)
    tolerance = TOLERANCES[precision]
    state = state_of(config)
    batch = batch_of(config, pairs=pairs, padded=padded)
    values = {name: parameter.detach().clone() for name, parameter in named_parameters(state).items()}
    model = encoder_of(config.model, values, pairs=pairs)

    loss, gradients = learned(state, batch)
    expected, logits, of_samples = by_transformers(model, batch)
    expected.backward()

    assert abs(loss - expected.item()) <= tolerance * expected.item()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    mine = renamed(config.model, gradients, pairs=pairs)
    assert mine.keys() == theirs.keys()
    floor = GRADIENT_FLOORS[precision] * max(float(gradient.abs().max()) for gradient in theirs.values())
    apart = {name: difference(mine[name], theirs[name], floor) for name in theirs}
    assert {name: far for name, far in apart.items() if not far <= tolerance} == {}
    if not pairs and config.model.family == "bert":
        assert not any(gradients[name].any() for name in gradients if name.startswith("pair_head"))
    state.model.eval()
    with torch.no_grad():
        real = slice(None) if batch.documents_bs is None else batch.documents_bs.flatten() >= 0
        ours = state.model.logits(batch)  # type: ignore[operator]
        assert difference(ours[real], logits.flatten(0, 1)[real]) <= tolerance
        if of_samples is not None:
            head = state.model.pair_head
            found = head.class_logits(state.model.rows(batch), batch)  # type: ignore[operator, union-attr]
            assert difference(found, of_samples) <= tolerance


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_padding_is_read_by_nobody(name: str) -> None:
    """Oracle: the same samples with other tokens as padding."""
    config = run_of(CASES[name])
    state = state_of(config)
    batch = batch_of(config, pairs=name == "bert")
    assert batch.documents_bs is not None
    other = replace(batch, tokens_bs=torch.where(batch.documents_bs < 0, 30, batch.tokens_bs))
    assert learned(state, batch)[0] == learned(state, other)[0]


def test_a_micro_batch_without_a_label_has_loss_0_and_gradients_0() -> None:
    config = run_of(CASES["bert"])
    batch = batch_of(config, pairs=True)
    nothing = replace(
        batch,
        labels_bs=torch.full_like(batch.labels_bs, IGNORED),
        classes_b=torch.full((B,), IGNORED),
        loss_scale=0.0,
        class_loss_scale=0.0,
    )
    loss, gradients = learned(state_of(config), nothing)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())
