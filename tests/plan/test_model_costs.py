"""Oracle: by hand, for which runs the costs are known, and which closed forms they are."""

from collections.abc import Callable
from typing import Any

import pytest

from megalm.models import counts, electra_counts, encoder_counts, encoder_decoder_counts
from megalm.models.config import ModelConfig
from megalm.models.decoder_shape import DecoderShape
from megalm.models.electra_shape import ElectraShape
from megalm.models.encoder_decoder_shape import EncoderDecoderShape
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


@pytest.mark.parametrize(
    ("family", "objective", "shape_of", "forms"),
    [
        ("bert", "mlm_nsp", EncoderShape.of, encoder_counts),
        ("electra", "rtd", ElectraShape.of, electra_counts),
    ],
    ids=["bert", "electra"],
)
def test_encoders_are_asked_for_a_share_of_the_tokens(
    family: str, objective: str, shape_of: Callable[[ModelConfig], Any], forms: Any
) -> None:
    config = run_of(family, {"name": objective, "noise_density": 0.25})
    shape, known = shape_of(config.model), model_costs(config)
    assert known is not None
    assert known.num_parameters == forms.num_parameters(shape)
    assert known.blocks == forms.flops_by_block(shape, 13, 0.25, config.recompute)
    assert known.training_flops == forms.training_flops_per_token(shape, 13, 0.25)
    assert known.hardware_flops == forms.hardware_flops_per_token(shape, 13, 0.25, config.recompute)
    assert len(known.names) == len(known.blocks) == config.model.num_blocks


def test_the_share_that_is_asked_for_weighs_in_the_cut() -> None:
    few, many = (run_of("bert", {"name": "mlm_nsp", "noise_density": share}) for share in (0.25, 0.9))
    assert [len(span) for span in cut_into_stages(few, 6, 2)] == [4, 2]
    assert [len(span) for span in cut_into_stages(many, 6, 2)] == [5, 1]


def test_an_encoder_decoder_costs_what_it_reads_and_says_of_13_tokens() -> None:
    """Half of them behind 2 sentinels: 7 + 2 + 1 tokens are read, and 6 + 2 + 1 said."""
    config = run_of("t5", {"name": "seq2seq", "noise_density": 0.46, "mean_span_length": 3})
    shape, known = EncoderDecoderShape.of(config.model), model_costs(config)
    assert known is not None
    assert known.num_parameters == encoder_decoder_counts.num_parameters(shape)
    of_sample = encoder_decoder_counts.flops_by_block(shape, 10, 9, config.recompute)
    assert [13 * block.whole for block in known.blocks] == pytest.approx([b.whole for b in of_sample], abs=3 * 13)
    training = encoder_decoder_counts.training_flops(shape, 10, 9)
    assert 13 * known.training_flops == pytest.approx(training, abs=13)
    hardware = encoder_decoder_counts.hardware_flops(shape, 10, 9, config.recompute)
    assert 13 * known.hardware_flops == pytest.approx(hardware, abs=13)
    assert len(known.names) == len(known.blocks) == config.model.num_blocks
    denoised = model_costs(run_of("bart", {"name": "seq2seq", "seq2seq": "denoising", "noise": ["mask"]}))
    assert denoised is not None
    assert denoised.blocks[1].whole > known.blocks[1].whole  # 14 tokens are read


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        ("bert", {"name": "own:objective"}),
        ("own:model", {}),
        ("t5", {"name": "seq2seq", "seq2seq": "pairs"}),
    ],
)
def test_what_is_not_known_is_absent(family: str, objective: dict[str, Any]) -> None:
    assert model_costs(run_of(family, objective)) is None


def test_a_classifier_says_nothing_of_each_token() -> None:
    config = run_of("gpt2", {})
    classifier = config.model_copy(update={"model": config.model.model_copy(update={"num_labels": 3})})
    assert model_costs(classifier) is None
