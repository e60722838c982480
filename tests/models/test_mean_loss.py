"""Oracle: means by hand."""

import torch
from torch import nn

from megalm.models.mean_loss import MeanLoss, means, told


def test_sums_and_counts_are_kept_while_somebody_asks() -> None:
    model = nn.ModuleList([MeanLoss("mlm"), nn.Linear(2, 2), MeanLoss("rtd")])
    mlm, _, rtd = model
    mlm(torch.tensor(9.0), 0.5, 4)
    with told(model.modules(), "cpu") as seen:
        loss = torch.tensor(3.0, requires_grad=True)
        assert mlm(loss, 0.5, 4) is loss
        mlm(torch.tensor(1.0), 0.25, 1)
        mlm(torch.tensor(0.0), 0.0, 0)
        assert {name: both.tolist() for name, both in seen.items()} == {"mlm": [10.0, 5.0], "rtd": [0.0, 0.0]}
        assert not seen["mlm"].requires_grad
    mlm(torch.tensor(9.0), 0.5, 4)
    assert means(seen) == {"mlm": 2.0}
    with told(model.modules(), "cpu") as again:
        rtd(torch.tensor(6.0), 3.0, 4)
    assert means(again) == {"rtd": 0.5}
    with told([model[1]], "cpu") as nothing:
        assert nothing == {}
