"""Oracle: the model as it is built, stage by stage."""

from typing import Any

import pytest

from megalm.mesh import Axis, Mesh
from megalm.plan.schedule_view import schedule_view
from megalm.plan.stages import cut_into_stages
from megalm.training.model import build_part
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, run_file


@pytest.mark.parametrize("model", [GPT2, LLAMA])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
def test_the_planned_cut_is_the_built_one(model: str, num_stages: int) -> None:
    config = run_file(model, model={"num_hidden_layers": 4, "vocab_size": 5000})
    planned = cut_into_stages(config, 6, num_stages)
    part = build_part(config, Mesh.alone(), [0] * num_stages, Axis.alone())
    assert [len(blocks) for blocks in part.held.stages.values()] == [len(span) for span in planned] == part.num_blocks


def test_the_blocks_of_ones_own_model_count_alike() -> None:
    config = run_file(GPT2, model={"family": "some.module:build"})
    assert cut_into_stages(config, 6, 3) == [range(2), range(2, 4), range(4, 6)]


@pytest.mark.parametrize("recompute", [{"mode": "none"}, {"mode": "full"}, {"mode": "full", "every": 3}], ids=str)
def test_what_is_computed_again_weighs_in_the_cut_and_on_the_clock(recompute: dict[str, Any]) -> None:
    """The best of all cuts by hand: three times a layer's forward, and what is done again, against the head."""
    config = run_file(
        GPT2_UNTIED,
        model={"num_hidden_layers": 7, "vocab_size": 1800, "attn_pdrop": 0.0},
        layout={"pp": 2},
        recompute=recompute,
        train={"micro_batch_size": 6},
    )
    attention, inner, head = 4 * 13 * 32, 2 * 12 * 32 * 32, 2 * 1800 * 32
    again = attention + inner - 2 * 4 * 32 * 32
    every = recompute.get("every", 1)
    layers = [
        3 * (attention + inner) + again * (recompute["mode"] == "full" and layer % every == 0) for layer in range(7)
    ]
    costs = [2 * 32, *layers, 3 * head]
    best = min(range(1, 9), key=lambda cut: max(sum(costs[:cut]), sum(costs[cut:])))
    assert cut_into_stages(config, 9, 2) == [range(best), range(best, 9)]
    view = schedule_view(config)
    spent = [sum(span.end - span.start for span in view.timetable.spans if span.rank == rank) for rank in range(2)]
    assert spent[0] / spent[1] == pytest.approx(sum(costs[:best]) / sum(costs[best:]))
