"""Oracle: the non-linearities that Hugging Face transformers calls by the same names."""

from typing import get_args

import pytest
import torch
from torch import Tensor

from megalm.mesh import Axis
from megalm.models.layer_shapes import Activation, MlpShape
from megalm.models.mlp import GatedMlp, Mlp
from tests.models.hugging_face import activation_called


@pytest.mark.parametrize("name", get_args(Activation))
@pytest.mark.parametrize("kind", [Mlp, GatedMlp])
def test_products_around_the_non_linearity(kind: type[Mlp | GatedMlp], name: Activation) -> None:
    mlp = kind(MlpShape(6, 10, True, name, 0.7, 0.7), Axis.alone(), sequence_parallel=False).double()
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    theirs = activation_called(name)

    def linear(layer: torch.nn.Module, rows: Tensor) -> Tensor:
        return torch.nn.functional.linear(rows, layer.weight, layer.bias)  # type: ignore[arg-type]

    inner = linear(mlp.up_proj, x)
    inner = theirs(linear(mlp.gate_proj, x)) * inner if isinstance(mlp, GatedMlp) else theirs(inner)
    torch.testing.assert_close(mlp(x, torch.arange(5)), linear(mlp.down_proj, inner), rtol=0, atol=1e-12)
