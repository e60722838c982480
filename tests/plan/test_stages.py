"""Oracle: the model as it is built, stage by stage."""

import pytest

from megalm.mesh import Axis, Mesh
from megalm.plan.stages import cut_into_stages
from megalm.training.model import build_part
from tests.verify.runs import GPT2, LLAMA, run_file


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
