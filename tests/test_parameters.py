"""Oracle: the whole parameter drawn at once; rng for the values."""

import pytest
import torch
from torch import Tensor, nn

from megalm import rng
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import draw, initialize, name_parameters, new_parameter, spec_of


def split(dim: int, size: int, parts: int) -> Split:
    return Split("tp", dim, even_ranges(size, parts))


class Model(nn.Module):
    """Every kind of parameter at one position of a tensor axis."""

    def __init__(self, at: int, parts: int) -> None:
        super().__init__()
        positions = {"tp": at}
        rows = ParamSpec((7, 5), Init.normal(0.5), split(0, 7, parts))
        columns = ParamSpec((4, 9), Init.normal(2.0), split(1, 9, parts))
        vector = ParamSpec((11,), Init.normal(1.0), split(0, 11, parts))
        self.rows = new_parameter(rows, positions)
        self.columns = new_parameter(columns, positions)
        self.vector = new_parameter(vector, positions)
        self.norm = new_parameter(ParamSpec((3,), Init.constant(1.5), decay=False), positions)
        self.plain = nn.Linear(2, 3)
        self.tied = self.rows


def built(at: int, parts: int, seed: int = 7) -> Model:
    model = Model(at, parts)
    name_parameters(model)
    initialize(model.parameters(), seed, {"tp": at})
    return model


def whole_matrix(name: str, rows: int, columns: int, std: float) -> Tensor:
    drawn = torch.empty(rows, columns)
    rng.fill_normal(drawn, rng.key(7, name), std, 0, 0)
    return drawn


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_slices_are_those_of_the_whole_parameter_however_it_is_cut(parts: int) -> None:
    models = [built(at, parts) for at in range(parts)]
    assert torch.equal(torch.cat([model.rows for model in models]), whole_matrix("rows", 7, 5, 0.5))
    assert torch.equal(torch.cat([model.columns for model in models], 1), whole_matrix("columns", 4, 9, 2.0))
    assert torch.equal(torch.cat([model.vector for model in models]), whole_matrix("vector", 1, 11, 1.0)[0])
    assert all((model.norm == 1.5).all() for model in models)


def test_the_seed_and_the_name_decide() -> None:
    assert not torch.equal(built(0, 1, seed=7).rows, built(0, 1, seed=8).rows)
    model = Model(0, 1)
    other = new_parameter(spec_of(model.rows), {})
    model.register_parameter("other", other)
    name_parameters(model)
    initialize(model.parameters(), 7, {})
    assert not torch.equal(other, model.rows)


def test_a_plain_torch_layer_keeps_its_own_init_and_is_whole() -> None:
    torch.manual_seed(0)
    model = Model(0, 2)
    before = model.plain.weight.detach().clone()
    name_parameters(model)
    initialize(model.parameters(), 7, {"tp": 0})
    assert torch.equal(model.plain.weight, before)
    plain = {name: spec_of(parameter) for name, parameter in model.plain.named_parameters()}
    assert plain["weight"] == ParamSpec((3, 2), Init.given(), name="plain.weight")
    assert plain["bias"] == ParamSpec((3,), Init.given(), decay=False, name="plain.bias")


def test_a_parameter_has_one_name_and_a_tied_one_the_first() -> None:
    model = built(0, 1)
    named = {spec_of(parameter).name: parameter for parameter in model.parameters()}
    assert list(named) == ["rows", "columns", "vector", "norm", "plain.weight", "plain.bias"]
    assert named["rows"] is model.tied


def test_a_new_parameter_is_drawn_at_once() -> None:
    parameter = new_parameter(ParamSpec((300, 300), Init.normal(0.1)), {})
    assert abs(parameter.std().item() - 0.1) < 0.001
    assert parameter.requires_grad
    assert torch.equal(new_parameter(ParamSpec((2,), Init.constant(3.0)), {}), torch.full((2,), 3.0))


def test_a_parameter_on_the_meta_device_waits_for_memory() -> None:
    with torch.device("meta"):
        parameter = new_parameter(ParamSpec((1 << 20, 1 << 20), Init.normal(0.1), split(0, 1 << 20, 8)), {"tp": 3})
    assert parameter.is_meta
    assert parameter.shape == (1 << 17, 1 << 20)


def test_a_normal_draw_of_three_dims_is_refused_by_name() -> None:
    spec = ParamSpec((2, 2, 2), Init.normal(1.0), name="experts.weight")
    with pytest.raises(ValueError, match=r"experts\.weight: a normal init draws matrices and vectors, not 3 dims"):
        draw(torch.empty(2, 2, 2), spec, 1, (0, 0, 0))


def test_layers_by_themselves_draw_different_values_that_torchs_seed_decides() -> None:
    def two_layers() -> tuple[Tensor, Tensor]:
        torch.manual_seed(3)
        spec = ParamSpec((4, 5), Init.normal(1.0))
        return new_parameter(spec, {}).detach(), new_parameter(spec, {}).detach()

    first, second = two_layers()
    assert not torch.equal(first, second)
    assert all(torch.equal(one, again) for one, again in zip((first, second), two_layers(), strict=True))
