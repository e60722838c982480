"""Oracle: the model as it is built, stage by stage."""

from pathlib import Path
from typing import Any

import pytest

from megalm.mesh import Axis, Mesh
from megalm.plan.model_costs import model_costs
from megalm.plan.schedule_view import schedule_view
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig
from megalm.training.model import build_part
from tests.verify import encoder_decoder_runs, encoder_runs
from tests.verify.encoder_decoder_runs import BART, T5
from tests.verify.encoder_runs import BERT, ELECTRA, PAIRS, REPLACED
from tests.verify.runs import GPT2, GPT2_UNTIED, LLAMA, run_file

SIZES = {"num_hidden_layers": 4, "vocab_size": 5000}
UNLIKE = {"num_decoder_layers": 3}
UNREAD = Path("not", "read")
CASES: dict[str, tuple[RunConfig, int]] = {
    "gpt2": (run_file(GPT2, model=SIZES), 6),
    "llama": (run_file(LLAMA, model=SIZES), 6),
    "bert": (encoder_runs.run_file({**BERT, **SIZES}, PAIRS, ("not", "read")), 6),
    "electra": (encoder_runs.run_file({**ELECTRA, **SIZES}, REPLACED, ("not", "read")), 12),
    "t5": (encoder_decoder_runs.run_file(T5, UNREAD, model=SIZES), 11),
    "t5, a shorter decoder": (encoder_decoder_runs.run_file(T5, UNREAD, model={**SIZES, **UNLIKE}), 10),
    "bart, a shorter decoder": (
        encoder_decoder_runs.run_file(BART, UNREAD, model={**SIZES, **UNLIKE}, objective={"noise": ["infill"]}),
        10,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
def test_the_planned_cut_is_the_built_one(case: str, num_stages: int) -> None:
    config, num_blocks = CASES[case]
    costs = model_costs(config)
    assert costs is not None
    assert len(costs.names) == len(costs.blocks) == config.model.num_blocks == num_blocks
    planned = cut_into_stages(config, num_blocks, num_stages)
    part = build_part(config, Mesh.alone(), [0] * num_stages, Axis.alone())
    assert [len(blocks) for blocks in part.held.stages.values()] == [len(span) for span in planned] == part.num_blocks
    assert sum(part.num_blocks) == num_blocks


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
