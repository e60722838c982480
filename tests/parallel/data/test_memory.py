"""Oracle: the storage's own size, and autograd's check of what it saved."""

import pytest
import torch
from torch import nn

from megalm.parallel.data.memory import GradientMemory, ValueMemory

CPU = torch.device("cpu")


def test_values_come_and_go_while_their_views_stay() -> None:
    memory = ValueMemory(6, CPU, torch.float64)
    view = memory.tensor[2:5]
    memory.give_back()
    assert memory.num_bytes == memory.tensor.untyped_storage().nbytes() == 0
    memory.take()
    assert memory.num_bytes == 48
    memory.tensor.copy_(torch.arange(6.0))
    assert view.tolist() == [2, 3, 4]


@pytest.mark.parametrize("unseen", [True, False])
def test_what_autograd_saved_may_be_taken_away_and_put_back_unseen(unseen: bool) -> None:
    memory = ValueMemory(3, CPU, torch.float32)
    weight = nn.Parameter(memory.tensor.view(3))
    weight.data.fill_(2)
    x = torch.ones(3, requires_grad=True)
    y = (x * weight).sum()
    memory.give_back()
    memory.take()
    if not unseen:
        memory.tensor.fill_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()
        return
    with memory.unseen():
        memory.tensor.fill_(2)
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 2]


def test_gradients_are_taken_at_the_first_use_and_handed_over_as_they_are() -> None:
    memory = GradientMemory(4, CPU, torch.float32, kept=False)
    assert memory.num_bytes == 0
    memory.tensor.add_(1)
    given = memory.hand_over()
    assert memory.num_bytes == 0
    memory.tensor.add_(5)
    assert (given == 1).all()
    assert (memory.tensor == 5).all()


def test_gradients_that_are_kept_stay_when_handed_over() -> None:
    memory = GradientMemory(4, CPU, torch.float32, kept=True)
    memory.tensor.add_(1)
    assert memory.hand_over() is memory.tensor
    assert memory.num_bytes == 16
