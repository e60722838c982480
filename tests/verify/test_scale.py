"""Oracle: the arithmetic of a smaller model, by hand."""

import pytest

from megalm.errors import UserError
from megalm.verify.scale import shrunk
from tests.verify.runs import GPT2, LLAMA, run_file


def test_depth_heads_and_widths_shrink_and_a_head_keeps_its_size() -> None:
    config = run_file(LLAMA, model={"num_hidden_layers": 4, "intermediate_size": 100})
    small = shrunk(config, 0.34).model
    assert small.num_hidden_layers == 1
    assert (small.num_attention_heads, small.num_key_value_heads) == (2, 1)
    assert (small.hidden_size, small.head_dim, small.intermediate_size) == (16, 8, 34)


def test_enough_heads_remain_for_tp() -> None:
    assert shrunk(run_file(LLAMA, layout={"tp": 4}), 0.1).model.num_attention_heads == 4
    assert shrunk(run_file(GPT2, layout={"tp": 3}), 0.1).model.num_attention_heads == 3


def test_scale_1_changes_nothing() -> None:
    config = run_file(GPT2)
    assert shrunk(config, 1.0) is config


def test_a_model_of_the_users_own_is_not_shrunk() -> None:
    with pytest.raises(UserError, match="built-in families"):
        shrunk(run_file(GPT2, model={"family": "some.module:build"}), 0.5)


def test_there_stay_enough_layers_for_the_stages() -> None:
    config = run_file(
        GPT2,
        model={"num_hidden_layers": 12},
        layout={"pp": 3},
        pipeline={"schedule": "zb-v", "blocks_per_stage": [3, 3, 2, 2, 2, 2]},
    )
    assert shrunk(config, 0.1).model.num_hidden_layers == 4
    assert shrunk(config, 0.5).model.num_hidden_layers == 6
