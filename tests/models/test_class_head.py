"""Oracle: transformers' GPT2ForSequenceClassification and BertForSequenceClassification with the same values."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.mesh import Axis, Mesh
from megalm.models.class_head import ClassHead, counted
from megalm.parallel.tensor.region import Region
from megalm.run_config import RunConfig
from megalm.training.build import build_state, named_parameters
from megalm.validation import validate
from tests.models.hugging_face import renamed

LENGTHS = torch.tensor([7, 3, 5, 1])
CLASSES = torch.tensor([2, 0, 1, 2])
SIZES = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "vocab_size": 101, "num_labels": 3}


def run(family: str) -> RunConfig:
    fields: dict[str, Any] = {"family": family, **SIZES, "max_position_embeddings": 16, "initializer_range": 0.3}
    return validate(
        RunConfig,
        {
            "model": fields,
            "objective": {"name": "classify"},
            "data": {"train": [{"path": "unused"}]},
            "train": {"precision": "fp64", "global_batch_size": 4, "micro_batch_size": 4, "seq_length": 7},
        },
    )


def batch() -> MicroBatch:
    places = torch.arange(7).expand(4, 7)
    padding = places >= LENGTHS.unsqueeze(1)
    tokens = torch.randint(1, 101, (4, 7), generator=torch.Generator().manual_seed(5)).masked_fill(padding, 0)
    labels = torch.full_like(tokens, IGNORED)
    documents = torch.where(padding, -1, 0).to(torch.int32)
    return MicroBatch(tokens, labels, places, places, 0.0, documents, classes_b=CLASSES, class_loss_scale=0.25)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes = {"n_embd": 24, "n_head": 3, "n_layer": 2, "vocab_size": 101, "n_positions": 16, "num_labels": 3}
    drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model: nn.Module = GPT2ForSequenceClassification(
        GPT2Config(**sizes, **drops, pad_token_id=0, attn_implementation="eager")
    )
    return model


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attn_implementation": "eager"}
    others = {"intermediate_size": 96, "max_position_embeddings": 16}
    model: nn.Module = BertForSequenceClassification(BertConfig(**SIZES, **drops, **others))
    return model


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_logits_loss_and_gradients(family: str) -> None:
    config = run(family)
    state = build_state(config, Mesh.alone())
    values = {name: parameter.detach().clone() for name, parameter in named_parameters(state).items()}
    oracle = (gpt2 if family == "gpt2" else bert)().double().train()
    oracle.load_state_dict(renamed(config.model, values))
    given = batch()
    assert given.documents_bs is not None
    told = oracle(input_ids=given.tokens_bs, attention_mask=(given.documents_bs >= 0).long(), labels=CLASSES)
    told.loss.backward()

    loss = state.run([given])
    assert loss.item() == pytest.approx(told.loss.item(), rel=1e-12)
    gradients: dict[str, Tensor] = {}
    for bucket in state.buckets:
        for owned in bucket.owned():
            gradients[owned.slot.spec.name] = owned.view(bucket.owned_gradients).clone()
    expected = dict(oracle.named_parameters())
    for name, gradient in renamed(config.model, gradients).items():
        torch.testing.assert_close(gradient, expected[name].grad, rtol=1e-10, atol=1e-10, msg=name)

    x: Tensor | None = None
    *below, head = state.model.blocks()  # type: ignore[operator]
    with torch.no_grad():
        for block in below:
            x = block(x, given)
        assert x is not None
        logits = head.class_logits(x, given)
    torch.testing.assert_close(logits, told.logits.detach(), rtol=1e-10, atol=1e-10)


def test_what_is_said_is_counted_while_somebody_asks() -> None:
    head = ClassHead(3, 3, 1.0, Region(Axis.alone()), pooled=False)
    with torch.no_grad():
        head.classifier.weight.copy_(torch.eye(3))
    rows = torch.eye(3)[[2, 0, 1, 1]]
    places = torch.zeros(4, 1, dtype=torch.int64)
    classes = torch.tensor([2, 1, 1, IGNORED])
    given = MicroBatch(places, places, places, places, 0.0, classes_b=classes, class_loss_scale=1.0)
    with counted([nn.Linear(1, 1), head]) as said_cc:
        head(rows, given)
        head(rows, given)
    head(rows, given)
    assert said_cc is not None
    assert said_cc.tolist() == [[0, 0, 0], [2, 2, 0], [0, 0, 2]]
    with counted([nn.Linear(1, 1)]) as nothing:
        assert nothing is None
