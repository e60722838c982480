"""Oracle: plain autograd over the whole chain, which keeps everything."""

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.stage import Stage
from megalm.weight_half import WeightHalf
from tests.models.live_storages import LiveStorages
from tests.parallel.pipeline.blocks import HIDDEN, Middle, blocks, gradients, micro_batch, plain_run

BATCHES = [micro_batch(0), micro_batch(1, samples=3)]


def recomputing(chain: list[nn.Module], *numbers: int) -> Stage:
    return Stage(chain, WeightHalf(), [chain[number] for number in numbers])


@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("frozen", [(), (0,), (1,), (0, 1), (1, 2), (0, 1, 2, 3)])
def test_the_gradients_are_those_of_the_whole_chain(numbers: tuple[int, ...], frozen: tuple[int, ...]) -> None:
    ours, plain = blocks(), blocks()
    for chain in (ours, plain):
        for block in frozen:
            chain[block].requires_grad_(False)
    stage = recomputing(ours, *numbers)
    total = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(BATCHES):
        loss = stage.forward(number, None, batch)
        assert isinstance(loss, Tensor)
        total += loss.detach()
    for number in (1, 0):
        for block in (3, 2, 1, 0):
            stage.backward(number, block=block)
    assert torch.equal(total, plain_run(plain, BATCHES))
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)


class Watched(Middle):
    """Remembers by which names it was called, and with a star whether a graph was made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        self.calls.append("forward" + "*" * torch.is_grad_enabled())
        return super().forward(x, batch)

    def again(self, x: Tensor, batch: MicroBatch) -> Tensor:
        self.calls.append("again" + "*" * torch.is_grad_enabled())
        return super().forward(x, batch)


def test_a_recomputed_block_keeps_nothing_and_is_called_again() -> None:
    kept = {}
    for recomputed in (False, True):
        chain = blocks()
        chain[1] = watched = Watched()
        stage = recomputing(chain, *([1] if recomputed else []))
        with LiveStorages() as live:
            stage.forward(0, None, BATCHES[0])
            kept[recomputed] = live.bytes_beside()
        assert watched.calls == ["forward" if recomputed else "forward*"]
        stage.backward(0)
        assert watched.calls == (["forward", "again*"] if recomputed else ["forward*"])
    assert kept[False] - kept[True] == BATCHES[0].tokens_bs.numel() * HIDDEN * 8  # the result of tanh


def test_an_evaluation_computes_nothing_again() -> None:
    chain = blocks()
    chain[1] = watched = Watched()
    with torch.no_grad():
        recomputing(chain, 1).forward(0, None, BATCHES[0])
    assert watched.calls == ["forward"]


class Passes(nn.Module):
    """A named set of which a block changes one tensor and passes the others on, with a frozen parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(HIDDEN, HIDDEN, dtype=torch.float64)
        self.frozen = nn.Parameter(torch.full((HIDDEN,), 2.0, dtype=torch.float64), requires_grad=False)

    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> dict[str, Tensor]:
        return {**flow, "rows": flow["rows"] + self.linear(flow["rows"]).tanh(), "frozen": self.frozen}


class Splits(nn.Module):
    """Rows to a named set."""

    def forward(self, x: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        return {"rows": x * 2, "kept": x.detach() * 3, "numbers": batch.tokens_bs.flatten()}


class Joins(nn.Module):
    """The named set to rows."""

    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> Tensor:
        return flow["rows"] * flow["kept"] * flow["frozen"] + flow["numbers"].unsqueeze(1)


def test_a_named_set_is_passed_on() -> None:
    def chain() -> list[nn.Module]:
        entry, middle, _, loss = blocks()
        return [entry, Splits(), Passes(), Passes(), Joins(), middle, loss]

    ours, plain = chain(), chain()
    stage = recomputing(ours, 2, 3, 5)
    stage.forward(0, None, BATCHES[0])
    stage.backward(0)
    plain_run(plain, BATCHES[:1])
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=1e-13, atol=1e-15)
    assert not ours[2].frozen.requires_grad
