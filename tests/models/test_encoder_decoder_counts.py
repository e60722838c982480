"""Oracle: the built model itself, the published sizes, and torch's FlopCounterMode."""

from typing import Any

import pytest
import torch

from megalm.batch import MicroBatch, Source
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.models.encoder_decoder import build_encoder_decoder
from megalm.models.encoder_decoder_counts import flops_by_block, hardware_flops, num_parameters, training_flops
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS, EncoderDecoderShape
from megalm.models.presets import PRESETS
from tests.models.flops import MODES, counted, run_of

PUBLISHED = {"t5-small": 60_506_624, "t5-base": 222_903_552, "bart-base": 139_420_416}
SIZES = {"num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 61, "intermediate_size": 40}
SMALL: dict[str, dict[str, Any]] = {
    "t5": {"family": "t5"},
    "t5 gated, untied, other heads": {
        "family": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "head_dim": 5,
        "num_decoder_layers": 3,
    },
    "bart": {"family": "bart"},
    "bart of two kinds of stack": {
        "family": "bart",
        "num_decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 33,
    },
}
B, S, T = 2, 13, 7


def batch_of() -> MicroBatch:
    read, said = torch.arange(B * S).view(B, S), torch.arange(B * T).view(B, T)
    source = Source(read, torch.arange(S).expand(B, S), read)
    return MicroBatch(said, said, torch.arange(T).expand(B, T), said, 1 / (B * T), source=source)


@pytest.mark.parametrize("fields", [*SMALL.values(), *({"preset": preset} for preset in PUBLISHED)], ids=str)
def test_what_is_counted_is_what_the_model_learns(fields: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(fields if "preset" in fields else {**SIZES, **fields})
    model = build_encoder_decoder(config, Axis.alone("tp"), sequence_parallel=False)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert num_parameters(EncoderDecoderShape.of(config)) == count
    if "preset" in fields:
        assert count == PUBLISHED[fields["preset"]]


def test_every_preset_is_judged_by_its_publication() -> None:
    assert PUBLISHED.keys() == {preset for preset, fields in PRESETS.items() if fields["family"] in ENCODER_DECODERS}


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
def test_flops_are_those_of_the_products(fields: dict[str, Any], recompute: dict[str, Any]) -> None:
    """The encoder's layers are numbers 0 and 1 of what is computed again, the decoder's embedding is 2."""
    config = run_of({**SIZES, **fields}, recompute, {"name": "seq2seq"}, S)
    shape, section = EncoderDecoderShape.of(config.model), config.recompute
    found = counted(config, batch_of())
    first, *encoder = flops_by_block(shape, S, T, section)
    second = encoder.pop(shape.encoder.num_layers)
    assert found.forward == B * sum(block.forward for block in encoder)
    assert found.whole == B * sum(block.whole for block in encoder)
    assert found.whole == B * hardware_flops(shape, S, T, section)
    assert first.whole * T == second.whole * S
    if recompute["mode"] == "none":
        assert found.whole == B * training_flops(shape, S, T)
