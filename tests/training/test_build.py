"""Oracle: the list of the model's parameters, each of which must be in one bucket."""

import pytest
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.optim.config import OptimizerConfig
from megalm.training.build import build_state
from tests.verify.runs import GPT2, run_file


class Leaky(nn.Module):
    """A model whose second layer is in none of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.lost = nn.Linear(2, 2), nn.Linear(2, 2)

    def blocks(self) -> list[nn.Module]:
        return [self.used]

    def forward(self, _: MicroBatch) -> Tensor:
        return self.used.weight.sum()


def leaky(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    return Leaky()


class NoRule:
    """It can be called with a config, but has no update."""

    def __init__(self, config: OptimizerConfig) -> None:
        self.state_names = ("momentum",)


def test_every_trainable_parameter_is_in_one_bucket() -> None:
    state = build_state(run_file(GPT2), Mesh.alone())
    slots = [id(slot.parameter) for bucket in state.buckets for slot in bucket.slots]
    assert sorted(slots) == sorted(id(parameter) for parameter in state.model.parameters())


def test_a_parameter_in_no_block_is_refused_by_name() -> None:
    config = run_file(GPT2)
    own = config.model_copy(update={"model": config.model.model_copy(update={"family": f"{__name__}:leaky"})})
    with pytest.raises(UserError, match=r"lost\.weight is in none of the model's blocks"):
        build_state(own, Mesh.alone())


def test_what_is_no_update_rule_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer\.name: .*:NoRule is no update rule; give a class of \(config\)"):
        build_state(run_file(GPT2, optimizer={"name": f"{__name__}:NoRule"}), Mesh.alone())
