"""Oracle: for each objective the keys that it reads, by hand."""

from typing import Any

import pytest

from megalm.errors import UserError
from megalm.objectives.config import ObjectiveConfig
from megalm.validation import validate

SENTENCE_ENDS = [".", "?", "!"]


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({}, {"name": "clm"}),
        (
            {"name": "mlm_nsp"},
            {
                "name": "mlm_nsp",
                "noise_density": 0.15,
                "whole_word": False,
                "nsp": True,
                "nsp_weight": 1.0,
                "sentence_ends": SENTENCE_ENDS,
            },
        ),
        (
            {"name": "mlm_nsp", "nsp": False, "whole_word": True},
            {"name": "mlm_nsp", "noise_density": 0.15, "whole_word": True, "nsp": False},
        ),
        (
            {"name": "rtd", "whole_word": True},
            {"name": "rtd", "noise_density": 0.15, "whole_word": True, "rtd_weight": 50.0},
        ),
        (
            {"name": "seq2seq"},
            {"name": "seq2seq", "seq2seq": "spans", "noise_density": 0.15, "mean_span_length": 3.0},
        ),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise_density": 0.2},
            {
                "name": "seq2seq",
                "seq2seq": "denoising",
                "noise": ["infill", "permute"],
                "noise_density": 0.2,
                "mean_span_length": 3.0,
                "sentence_ends": SENTENCE_ENDS,
            },
        ),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["delete", "rotate"]},
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["delete", "rotate"], "noise_density": 0.3},
        ),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["permute"]},
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["permute"], "sentence_ends": SENTENCE_ENDS},
        ),
    ],
)
def test_what_is_left_out_is_resolved_once(given: dict[str, Any], resolved: dict[str, Any]) -> None:
    config = validate(ObjectiveConfig, given)
    assert config.model_dump(exclude_none=True) == resolved
    assert validate(ObjectiveConfig, resolved) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"noise_density": 0.1}, "objective.noise_density has no effect with objective.name=clm; remove it."),
        ({"nsp": False}, "objective.nsp has no effect with objective.name=clm"),
        ({"name": "mlm_nsp", "seq2seq": "spans"}, "objective.seq2seq has no effect with objective.name=mlm_nsp"),
        (
            {"name": "mlm_nsp", "nsp": False, "nsp_weight": 2.0},
            "objective.nsp_weight has no effect with objective.name=mlm_nsp, objective.nsp=false; remove it.",
        ),
        ({"name": "mlm_nsp", "rtd_weight": 2.0}, "objective.rtd_weight has no effect with objective.name=mlm_nsp"),
        ({"name": "rtd", "nsp": False}, "objective.nsp has no effect with objective.name=rtd"),
        ({"name": "own:it", "seq2seq": "spans"}, "objective.seq2seq has no effect with objective.name=own:it"),
        ({"name": "seq2seq", "noise": ["mask"]}, "objective.noise has no effect with .*objective.seq2seq=spans"),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["rotate"], "noise_density": 0.1},
            r"objective.noise_density has no effect with .*objective.noise=\['rotate'\]",
        ),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["mask"], "mean_span_length": 2.0},
            "objective.mean_span_length has no effect",
        ),
        (
            {"name": "seq2seq", "seq2seq": "denoising", "noise": ["mask"], "sentence_ends": ["."]},
            "objective.sentence_ends has no effect",
        ),
    ],
)
def test_keys_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(ObjectiveConfig, given)
