"""Oracle: the built model itself, and torch's FlopCounterMode."""

from typing import Any

import pytest
import torch

from megalm.batch import IGNORED, MicroBatch
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.models.electra import build_electra
from megalm.models.electra_counts import (
    flops_by_block,
    hardware_flops_per_token,
    num_parameters,
    training_flops_per_token,
)
from megalm.models.electra_shape import ELECTRA, ElectraShape
from megalm.models.presets import PRESETS
from tests.models.flops import MODES, counted, run_of

SIZES = {"family": "electra", "num_hidden_layers": 2, "vocab_size": 61, "hidden_size": 24, "num_attention_heads": 4}
SMALL: dict[str, dict[str, Any]] = {
    "small": {"embedding_size": 10, "generator_size": 0.5},
    "embeddings as wide as the discriminator, untied": {
        "embedding_size": 24,
        "generator_size": 0.25,
        "tie_word_embeddings": False,
        "type_vocab_size": 3,
    },
    "embeddings as wide as the generator": {"embedding_size": 12, "generator_size": 0.5, "intermediate_size": 37},
}
PRESETS_OF_IT = [preset for preset, fields in PRESETS.items() if fields["family"] == ELECTRA]


@pytest.mark.parametrize("fields", [*SMALL.values(), *({"preset": preset} for preset in PRESETS_OF_IT)], ids=str)
def test_what_is_counted_is_what_the_model_holds(fields: dict[str, Any]) -> None:
    config = ModelConfig.model_validate(fields if "preset" in fields else {**SIZES, **fields})
    model = build_electra(config, Axis.alone("tp"), sequence_parallel=False)
    assert num_parameters(ElectraShape.of(config)) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "recompute", [*MODES, {"mode": "selective", "every": 2}, {"mode": "full", "every": 3}], ids=str
)
@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
def test_flops_are_those_of_the_products(fields: dict[str, Any], recompute: dict[str, Any]) -> None:
    """Nine of the 26 tokens are named, which is known to a whole number a token only; all are judged.

    Of what is computed again the generator's layers are numbers 0 and 1, its head and the discriminator's embedding 2
    and 3.
    """
    config = run_of({**SIZES, **fields}, recompute, {"name": "rtd"})
    shape, section = ElectraShape.of(config.model), config.recompute
    tokens = torch.arange(26).view(2, 13)
    labels = tokens.masked_fill(tokens % 3 > 0, IGNORED)
    judged = torch.ones_like(tokens, dtype=torch.bool)
    batch = MicroBatch(
        tokens, labels, torch.arange(13).expand(2, 13), tokens, 1 / 9, judged_bs=judged, judged_loss_scale=50 / 26
    )
    found = counted(config, batch)
    blocks = flops_by_block(shape, 13, 9 / 26, section)
    additions = 3 * shape.embedding.hidden_size
    assert found.forward == pytest.approx(26 * (sum(block.forward for block in blocks) - 2 * additions), abs=4 * 26)
    assert found.whole == pytest.approx(26 * (sum(block.whole for block in blocks) - 4 * additions), abs=7 * 26)
    assert found.whole == pytest.approx(26 * hardware_flops_per_token(shape, 13, 9 / 26, section), abs=7 * 26)
    if recompute["mode"] == "none":
        assert found.whole == pytest.approx(26 * training_flops_per_token(shape, 13, 9 / 26), abs=7 * 26)
