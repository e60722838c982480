"""Oracle: the built model itself, the published sizes, and torch's FlopCounterMode."""

from typing import Any

import pytest
import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.models.encoder import build_encoder
from megalm.models.encoder_counts import (
    flops_by_block,
    hardware_flops_per_token,
    num_parameters,
    training_flops_per_token,
)
from megalm.models.encoder_shape import ENCODERS, EncoderShape
from megalm.models.presets import PRESETS
from tests.models.flops import MODES, counted, run_of

PUBLISHED = {
    "bert-base-uncased": 110_106_428,
    "bert-large-uncased": 336_226_108,
    "roberta-base": 124_697_433,
    "roberta-large": 355_412_057,
}
"""With their heads."""
SIZES = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 61, "intermediate_size": 40}
SMALL: dict[str, dict[str, Any]] = {
    "bert": {"family": "bert"},
    "bert untied": {"family": "bert", "tie_word_embeddings": False, "type_vocab_size": 3},
    "roberta": {"family": "roberta"},
}


@pytest.mark.parametrize("fields", [*SMALL.values(), *({"preset": preset} for preset in PUBLISHED)], ids=str)
def test_what_is_counted_is_what_the_model_holds(fields: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(fields if "preset" in fields else {**SIZES, **fields})
    model = build_encoder(config, Axis.alone("tp"), sequence_parallel=False)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters(EncoderShape.of(config)) == count
    if "preset" in fields:
        assert count == PUBLISHED[fields["preset"]]


def test_every_preset_is_judged_by_its_publication() -> None:
    assert PUBLISHED.keys() == {preset for preset, fields in PRESETS.items() if fields["family"] in ENCODERS}


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
def test_flops_are_those_of_the_products(fields: dict[str, Any], recompute: dict[str, Any]) -> None:
    """See the same of decoders; nine of the 26 tokens are asked, which is known to a whole number a token only."""
    config = run_of({**SIZES, **fields}, recompute, {"name": "mlm_nsp", "nsp": False})
    shape, section = EncoderShape.of(config.model), config.recompute
    tokens = torch.arange(26).view(2, 13)
    labels = tokens.masked_fill(tokens % 3 > 0, IGNORED)
    of_pairs = {"classes_b": torch.tensor([0, 1]), "class_loss_scale": 0.5} if shape.pools else {}
    batch = MicroBatch(tokens, labels, torch.arange(13).expand(2, 13), tokens, 1 / 9, **of_pairs)  # type: ignore[arg-type]
    found = counted(config, batch)
    _, *blocks = flops_by_block(shape, 13, 9 / 26, section)
    assert found.forward == pytest.approx(26 * sum(block.forward for block in blocks), abs=26)
    done = found.whole
    assert done == pytest.approx(26 * sum(block.whole for block in blocks), abs=3 * 26)
    assert done == pytest.approx(26 * hardware_flops_per_token(shape, 13, 9 / 26, section), abs=3 * 26)
    if recompute["mode"] == "none":
        assert done == pytest.approx(26 * training_flops_per_token(shape, 13, 9 / 26), abs=3 * 26)
