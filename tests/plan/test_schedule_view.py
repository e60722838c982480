"""Oracle: the blocks of the built model, by their classes and places."""

from typing import Any

import pytest

from megalm.plan.model_costs import model_costs
from megalm.plan.schedule_view import schedule_view
from megalm.run_config import RunConfig
from megalm.validation import validate

SIZES = {"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3, "vocab_size": 200}


def run_of(model: dict[str, Any], objective: dict[str, Any], cuts: list[int]) -> RunConfig:
    tree = {
        "model": {**SIZES, **model},
        "objective": objective,
        "data": {"train": [{"path": "not read"}]},
        "train": {"seq_length": 40, "global_batch_size": 4, "micro_batch_size": 1},
        "layout": {"pp": len(cuts)},
        "pipeline": {"blocks_per_stage": cuts},
    }
    return validate(RunConfig, tree)


@pytest.mark.parametrize(
    ("model", "objective", "cuts", "names"),
    [
        ({"family": "gpt2"}, {}, [2, 3], ["embedding, layer 0", "layers 1 to 2, head"]),
        (
            {"family": "t5", "num_decoder_layers": 4},
            {"name": "seq2seq"},
            [2, 5, 3],
            [
                "encoder embedding, encoder layer 0",
                "encoder layers 1 to 2, decoder embedding, decoder layers 0 to 1",
                "decoder layers 2 to 3, head",
            ],
        ),
        (
            {"family": "electra", "generator_size": 1.0},
            {"name": "rtd"},
            [5, 5],
            [
                "embedding, generator layers 0 to 2, generator head",
                "discriminator embedding, discriminator layers 0 to 2, head",
            ],
        ),
    ],
    ids=["gpt2", "t5", "electra"],
)
def test_stages_are_told_by_what_they_hold(
    model: dict[str, Any], objective: dict[str, Any], cuts: list[int], names: list[str]
) -> None:
    """With their shares of the work, which the closed forms of their blocks are."""
    config = run_of(model, objective, cuts)
    known = model_costs(config)
    assert known is not None
    ends = [sum(cuts[: stage + 1]) for stage in range(len(cuts))]
    costs = [block.whole for block in known.blocks]
    shares = [sum(costs[end - cut : end]) / sum(costs) for cut, end in zip(cuts, ends, strict=True)]
    told = [
        f"stage {stage} on rank {stage}: {name}, {share:.1%} of the work"
        for stage, (name, share) in enumerate(zip(names, shares, strict=True))
    ]
    assert list(schedule_view(config).stages) == told
