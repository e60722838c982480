"""Oracle: the whole model's blocks and parameters, counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.parameters import name_parameters
from megalm.training.held import Held, check_blocks

SPANS = [range(2), range(2, 3), range(3, 5)]


class Model(nn.Module):
    """Five blocks; the last one shares the first one's weight, and a frozen table is in the second and the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(5))
        self.layers[4].weight = self.layers[0].weight
        table = nn.Parameter(torch.ones(3), requires_grad=False)
        self.layers[1].table = table
        self.layers[4].table = table
        self.layers[2].register_buffer("seen", torch.zeros(1))
        name_parameters(self)

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)


def held_by(model: Model, rank_of_stage: list[int], rank: int) -> Held:
    return Held.of(model.blocks(), SPANS, rank_of_stage, rank)


def test_each_rank_holds_its_stages_and_both_ends_the_tied_weight() -> None:
    model = Model()
    first, second, third = (held_by(model, [0, 1, 2], rank) for rank in range(3))
    assert [list(held.stages) for held in (first, second, third)] == [[0], [1], [2]]
    assert list(third.blocks()) == list(model.layers[3:])
    assert first.parameters()[0] is third.parameters()[1] is model.layers[0].weight
    assert first.holders == second.holders == {"layers.0.weight": [0, 2]}
    assert first.shared == third.shared == frozenset()
    assert second.buffers() == [model.layers[2].seen]


def test_two_stages_of_one_rank_share_a_bucket_that_is_complete_when_both_are_done() -> None:
    model = Model()
    for rank in (0, 1):
        held = held_by(model, [0, 1, 0], rank)
        assert held.holders == {}
        assert held.shared == {(0, 0), (0, 1)}
    places = held_by(model, [0, 1, 0], 0).parameters_by_block()
    assert list(places) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert [len(parameters) for parameters in places.values()] == [1, 1, 1, 0]


def test_what_others_hold_gives_its_memory_back() -> None:
    model = Model()
    held = held_by(model, [0, 1, 2], 1)
    held.release_others(model)
    assert [layer.weight.is_meta for layer in model.layers] == [True, True, False, True, True]
    assert model.layers[4].weight is model.layers[0].weight


class Leaky(Model):
    """A model whose last layer is in none of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = nn.Linear(2, 2, bias=False)

    def forward(self, _: MicroBatch) -> Tensor:
        return self.lost.weight.sum()


def test_a_parameter_in_none_of_the_blocks_is_refused_by_name() -> None:
    model = Leaky()
    with pytest.raises(UserError, match=r"parameter lost\.weight is in none of the model's blocks"):
        check_blocks(model, model.blocks())
    model.lost.requires_grad_(False)
    check_blocks(model, model.blocks())
