"""Oracle: by hand: what is said without a package or of a model that does not fit, and which blocks share a table."""

import sys
import warnings

import pytest
import torch
from torch import nn

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.param_spec import ParamSpec
from megalm.parameters import new_parameter
from megalm.training.backends.choose import foreign
from megalm.training.backends.whole import Whole, check_fit
from megalm.training.build import build_model
from megalm.training.model import build_part
from tests.ranks import RankContext, RankFailure, RankPool
from tests.training.backends.runs import begin, run_config


@pytest.mark.parametrize("backend", ["deepspeed", "fairscale"])
def test_a_package_that_is_missing_is_one_sentence(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # as if it were not installed
    config = run_config(Layout(dp=2), backend, 3)
    part = build_part(config, Mesh.alone(), [0], None)
    told = rf"^zero.backend: {backend} needs {backend} \(.+\); install it with pip install 'megalm\[{backend}\]'$"
    with pytest.raises(UserError, match=told), warnings.catch_warnings():
        foreign(config, Mesh.alone(), part, lambda step: 0.0)


def half_frozen(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    return model


def begin_frozen(context: RankContext) -> None:
    begin(run_config(Layout(dp=2), "fsdp2", 3, model={"family": f"{__name__}:half_frozen"}))


def test_frozen_parameters_are_refused(ranks: RankPool) -> None:
    with pytest.raises(RankFailure, match=r"UserError: zero.backend=fsdp2 learns all parameters and bias is frozen"):
        ranks.run(2, begin_frozen)


def test_gradients_partial_over_the_tensor_axis_are_refused() -> None:
    parameter = new_parameter(ParamSpec((2,), partial_over=("tp",), name="norm.weight"), {})
    with pytest.raises(UserError, match=r"that of norm\.weight is partial over the tensor axis"):
        check_fit([parameter], "deepspeed")


@pytest.mark.parametrize(("tied", "apart"), [(True, [1, 2]), (False, [0, 1, 2, 3])])
def test_blocks_that_share_a_table_stay_together(tied: bool, apart: list[int]) -> None:
    config = run_config(Layout(), "native", 0, model={"tie_word_embeddings": tied})
    model = build_model(config, Mesh.alone())
    assert isinstance(model, nn.Module)
    whole = Whole(model.blocks())  # type: ignore[operator]
    assert [list(whole.blocks).index(block) for block in whole.apart()] == apart
    assert torch.isfinite(next(whole.parameters())).all()
