"""Oracle: torch.optim.AdamW with a parameter group for each block, the learning rates written down by hand."""

import pytest
import torch
from torch import nn

from megalm.mesh import Mesh
from megalm.training.build import build_state, named_parameters
from tests.parallel.sums import sum_of
from tests.verify.runs import GPT2, GPT2_UNTIED, run_file

LR, FACTOR = 0.01, 0.5
BLOCKS = {"model.embed": 3, "model.layers.0.": 2, "model.layers.1.": 1, "model.norm": 0, "lm_head": 0}
"""How many blocks come after the one that a parameter lies in, by the beginning of its name."""


def by_hand(name: str) -> float:
    (after,) = (after for start, after in BLOCKS.items() if name.startswith(start))
    return LR * FACTOR**after


@pytest.mark.parametrize("model", [GPT2, GPT2_UNTIED])
def test_each_block_learns_at_its_own_rate(model: str) -> None:
    optimizer = {"lr": LR, "layer_lr_decay": FACTOR, "weight_decay": 0.3, "clip_grad_norm": 0.0}
    state = build_state(run_file(model, optimizer=optimizer), Mesh.alone())
    ours = named_parameters(state)
    plain = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in ours.items()}
    groups = [
        {"params": [parameter], "lr": by_hand(name), "weight_decay": 0.3 if parameter.ndim > 1 else 0.0}
        for name, parameter in plain.items()
    ]
    expected = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False)
    for _ in range(3):
        for name, parameter in plain.items():
            parameter.grad = torch.randn_like(parameter)
            sum_of(ours[name]).copy_(parameter.grad)
        expected.step()
        state.optimizer.step(LR)
    assert len({by_hand(name) for name in plain}) == 4
    torch.testing.assert_close(
        {name: parameter.detach() for name, parameter in ours.items()},
        {name: parameter.detach() for name, parameter in plain.items()},
        rtol=1e-13,
        atol=1e-13,
    )
