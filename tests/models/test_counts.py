"""Oracle: the built model itself, the published sizes, and torch's FlopCounterMode."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from megalm.batch import MicroBatch
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.models.counts import (
    flops_by_block,
    forward_flops_per_token,
    hardware_flops_per_token,
    num_parameters,
    training_flops_per_token,
)
from megalm.models.decoder import build_decoder
from megalm.models.decoder_shape import DECODERS, DecoderShape
from megalm.models.presets import PRESETS
from megalm.parallel.pipeline.stage import Stage
from megalm.plan.model_costs import model_costs
from megalm.recompute import RecomputeConfig
from megalm.training.build import build_model
from megalm.weight_half import WeightHalf
from tests.models.flops import MODES, counted, counter, run_of

DECODER_PRESETS = {preset for preset, fields in PRESETS.items() if fields["family"] in DECODERS}
PUBLISHED = {
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1.5b": 1_557_611_200,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1.4b": 1_414_647_808,
    "gpt-neox-20b": 20_554_567_680,
    "llama-1b": 1_235_814_400,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
}
ROUNDED = {"gpt3-6.7b": 6.7e9, "gpt3-13b": 13.0e9, "gpt3-175b": 175.0e9}
"""Brown et al. 2020, table 2.1, give these with two or three digits."""

SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"family": "gpt2"},
    "gpt2 untied": {"family": "gpt2", "tie_word_embeddings": False, "intermediate_size": 37},
    "gpt_neox": {"family": "gpt_neox"},
    "gpt_neox tied, without attention bias": {
        "family": "gpt_neox",
        "tie_word_embeddings": True,
        "attention_bias": False,
    },
    "llama": {"family": "llama"},
    "llama grouped, with biases": {
        "family": "llama",
        "num_key_value_heads": 2,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "llama with its own head size": {"family": "llama", "head_dim": 10, "num_key_value_heads": 1},
    "qwen2": {"family": "qwen2", "num_key_value_heads": 2},
}


SIZES = {
    "num_hidden_layers": 3,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "vocab_size": 61,
    "max_position_embeddings": 16,
}


def on_cpu(fields: dict[str, Any]) -> nn.Module:
    return build_model(run_of(fields, {}, {}, 16), Mesh.alone())


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("preset", sorted(DECODER_PRESETS))
def test_every_preset_counts_what_its_model_holds(preset: str) -> None:
    """On the meta device, where no parameter takes memory."""
    config = ModelConfig.model_validate({"preset": preset})
    model = build_decoder(config, Axis.alone("tp"), sequence_parallel=False)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert num_parameters(DecoderShape.of(config)) == count(model)


@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
def test_each_shape_counts_what_its_model_holds(fields: dict[str, Any]) -> None:
    model = on_cpu({**SIZES, **fields})
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert num_parameters(DecoderShape.of(ModelConfig.model_validate({**SIZES, **fields}))) == count(model)


@pytest.mark.parametrize(("preset", "parameters"), PUBLISHED.items())
def test_published_sizes(preset: str, parameters: int) -> None:
    assert num_parameters(DecoderShape.of(ModelConfig.model_validate({"preset": preset}))) == parameters


@pytest.mark.parametrize(("preset", "parameters"), ROUNDED.items())
def test_published_sizes_that_are_rounded(preset: str, parameters: float) -> None:
    assert num_parameters(DecoderShape.of(ModelConfig.model_validate({"preset": preset}))) == pytest.approx(
        parameters, rel=0.015
    )


def test_every_preset_is_judged_by_its_publication() -> None:
    assert PUBLISHED.keys() | ROUNDED.keys() == DECODER_PRESETS


@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("learns", [False, True])
def test_flops_are_those_of_the_products(fields: dict[str, Any], learns: bool) -> None:
    """Whatever learns and whatever does not."""
    model = on_cpu({**SIZES, **fields})
    tokens = torch.arange(26).view(2, 13)
    batch = MicroBatch(tokens, tokens, torch.arange(13).expand(2, 13), tokens, loss_scale=1 / 26)
    counts = counter()
    with sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(learns), counts:
        stage = Stage(model.blocks(), WeightHalf())  # type: ignore[operator]
        stage.forward(0, None, batch)
        if learns:
            stage.backward(0)
    per_token = training_flops_per_token if learns else forward_flops_per_token
    assert counts.get_total_flops() == 26 * per_token(
        DecoderShape.of(ModelConfig.model_validate({**SIZES, **fields})), 13
    )


@pytest.mark.parametrize("recompute", MODES, ids=str)
@pytest.mark.parametrize("fields", SMALL.values(), ids=SMALL)
def test_what_is_computed_again_is_counted_where_it_is_done(fields: dict[str, Any], recompute: dict[str, Any]) -> None:
    """Nothing of it in the forward pass; and in the backward what torch counts, but no product that nobody reads."""
    config = run_of({**SIZES, **fields}, recompute, {})
    shape, section = DecoderShape.of(config.model), config.recompute
    tokens = torch.arange(26).view(2, 13)
    found = counted(config, MicroBatch(tokens, tokens, torch.arange(13).expand(2, 13), tokens, loss_scale=1 / 26))
    _, *blocks = flops_by_block(shape, 13, section)
    assert found.forward == 26 * sum(block.forward for block in blocks)
    assert found.whole == 26 * sum(block.whole for block in blocks)
    assert found.whole == 26 * hardware_flops_per_token(shape, 13, section)


@pytest.mark.parametrize("mode", [{"mode": "none"}, {"mode": "selective"}, {"mode": "full"}], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_sparse_attention_costs_the_keys_that_are_seen(family: str, mode: dict[str, Any]) -> None:
    """Whole blocks, of which the first queries compute as many as the others: 6 keys, of bert 7 in the mean, of 12."""
    pattern = {"pattern": "block_sparse", "block_size": 2, "num_local_blocks": 1}
    pattern |= {"num_global_blocks": 1, "num_random_blocks": 1, "num_dense_layers": 1}
    objective = {"name": "clm"} if family == "gpt2" else {"name": "mlm_nsp", "nsp": False}
    sparse, dense = (
        run_of({**SIZES, "family": family, "attention": attention}, mode, objective, 12)
        for attention in (pattern, {"pattern": "dense"})
    )
    done, of_dense = model_costs(sparse), model_costs(dense)
    assert done is not None
    assert of_dense is not None
    tokens = torch.arange(24).view(2, 12)
    batch = MicroBatch(tokens, tokens, torch.arange(12).expand(2, 12), tokens, loss_scale=1 / 24)
    found = counted(sparse, batch).whole - counted(dense, batch).whole
    assert found == 24 * (done.hardware_flops - of_dense.hardware_flops)
    seen, again = 6 if family == "gpt2" else 7, 0 if mode["mode"] == "none" else 1
    assert done.training_flops - of_dense.training_flops == 3 * 2 * 4 * (seen - 12) * 24
    assert found == 24 * 2 * 4 * 24 * (seen * (4 + again) - 12 * (3 + again))


def test_full_recomputation_costs_less_than_a_third_more() -> None:
    shape = DecoderShape.of(ModelConfig.model_validate({"preset": "gpt3-175b"}))
    model = training_flops_per_token(shape, 2048)
    more = hardware_flops_per_token(shape, 2048, RecomputeConfig(mode="full")) / model - 1
    assert 0.2 < more < 0.24  # a third without the 8 h^2 of 24 h^2 that the MLP's last product takes
    selective = hardware_flops_per_token(shape, 2048, RecomputeConfig(mode="selective")) / model - 1
    assert selective == pytest.approx(0.009, abs=0.001)  # 1 / 3 of attention's s / (6 h + s)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_the_blocks_together_cost_what_the_model_does(model: str) -> None:
    """All but the additions of the embedding; the halves of the backward are twice the forward without the head."""
    shape = DecoderShape.of(ModelConfig.model_validate({**SIZES, "family": model}))
    embedding, *layers, head = flops_by_block(shape, 13)
    whole = sum(block.whole for block in (*layers, head))
    assert whole == training_flops_per_token(shape, 13)
    assert all(layer.backward_input + layer.backward_weight == 2 * layer.forward for layer in layers)
    assert (head.backward_input, head.backward_weight) == (0, 0)
    assert embedding.whole < head.whole / 100
