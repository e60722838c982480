"""Oracle: by hand, for which runs the costs are known, and which closed forms they are."""

from typing import Any

import pytest

from megalm.models import counts, encoder_counts
from megalm.models.decoder_shape import DecoderShape
from megalm.models.encoder_shape import EncoderShape
from megalm.plan.model_costs import model_costs
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig
from megalm.validation import validate

SIZES = {"num_hidden_layers": 4, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 4000}


def run_of(family: str, objective: dict[str, Any]) -> RunConfig:
    tree = {
        "model": {**SIZES, "family": family},
        "objective": objective,
        "data": {"train": [{"path": "not read"}]},
        "train": {"seq_length": 13},
        "recompute": {"mode": "full"},
    }
    return validate(RunConfig, tree)


def test_a_decoder() -> None:
    config = run_of("gpt2", {})
    shape, known = DecoderShape.of(config.model), model_costs(config)
    assert known is not None
    assert known.num_parameters == counts.num_parameters(shape)
    assert known.blocks == counts.flops_by_block(shape, 13, config.recompute)
    assert known.training_flops == counts.training_flops_per_token(shape, 13)
    assert known.hardware_flops == counts.hardware_flops_per_token(shape, 13, config.recompute)


def test_an_encoder_is_asked_for_a_share_of_the_tokens() -> None:
    config = run_of("bert", {"name": "mlm_nsp", "noise_density": 0.25})
    shape, known = EncoderShape.of(config.model), model_costs(config)
    assert known is not None
    assert known.num_parameters == encoder_counts.num_parameters(shape)
    assert known.blocks == encoder_counts.flops_by_block(shape, 13, 0.25, config.recompute)
    assert known.training_flops == encoder_counts.training_flops_per_token(shape, 13, 0.25)
    assert known.hardware_flops == encoder_counts.hardware_flops_per_token(shape, 13, 0.25, config.recompute)
    more = run_of("bert", {"name": "mlm_nsp", "noise_density": 0.9})
    assert [len(span) for span in cut_into_stages(config, 6, 2)] == [4, 2]
    assert [len(span) for span in cut_into_stages(more, 6, 2)] == [5, 1]


@pytest.mark.parametrize(("family", "objective"), [("bert", {"name": "own:objective"}), ("own:model", {})])
def test_what_is_not_known_is_absent(family: str, objective: dict[str, Any]) -> None:
    assert model_costs(run_of(family, objective)) is None


def test_a_classifier_says_nothing_of_each_token() -> None:
    config = run_of("gpt2", {})
    classifier = config.model_copy(update={"model": config.model.model_copy(update={"num_labels": 3})})
    assert model_costs(classifier) is None
