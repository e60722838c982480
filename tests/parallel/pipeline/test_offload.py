"""Oracle: the same blocks with everything kept on the device, and the storages that are alive."""

import gc
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.offload import Offload
from megalm.parallel.pipeline.stage import Stage
from megalm.weight_half import WeightHalf
from tests.models.live_storages import LiveStorages, id_of
from tests.parallel.pipeline.blocks import HIDDEN, Middle, blocks, gradients, micro_batch
from tests.pretend_host import PretendHost

BATCHES = [micro_batch(0), micro_batch(1, samples=3), micro_batch(2)]
ROWS = BATCHES[0].tokens_bs.numel()
BYTES = ROWS * HIDDEN * 8
"""Of the rows that flow, in float64."""


def offloading(chain: list[nn.Module], host: PretendHost, *numbers: int, recomputed: tuple[int, ...] = ()) -> Stage:
    stay = [parameter for block in chain for parameter in block.parameters()]
    offload = Offload(host, torch.device("cpu"), [chain[number] for number in numbers], stay)
    return Stage(chain, WeightHalf(), [chain[number] for number in recomputed], offload)


def chain_of(*kinds: type[nn.Module]) -> list[nn.Module]:
    """Return small blocks around new ones of these kinds, every time with the same values."""
    entry, *_, loss = blocks()
    return [entry, *(kind() for kind in kinds), loss]


def run(stage: Stage, numbers: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for number in numbers:
        loss = stage.forward(number, None, BATCHES[number])
        assert isinstance(loss, Tensor)
        total += loss.detach()
    for number in reversed(numbers):
        stage.backward(number)
    return total


@pytest.mark.parametrize("recomputed", [(), (1,), (1, 2)])
@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2), (0, 1, 2, 3)])
def test_loss_and_gradients_are_the_same_to_the_bit(numbers: tuple[int, ...], recomputed: tuple[int, ...]) -> None:
    """Oracle: the stage that moves nothing."""
    host, ours, plain = PretendHost(), blocks(), blocks()
    assert torch.equal(
        run(offloading(ours, host, *numbers, recomputed=recomputed)),
        run(Stage(plain, WeightHalf(), [plain[number] for number in recomputed])),
    )
    for one, other in zip(gradients(ours), gradients(plain), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert host.moved[0] > 0
    gc.collect()
    assert host.num_bytes == 0


class Squares(nn.Module):
    """Two linears around a square: it saves its input twice, the square's, and a part of a transposed view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(HIDDEN, HIDDEN).double(), nn.Linear(HIDDEN, HIDDEN).double()

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        inner = self.first(x)
        part = inner.t()[1:]
        return x + self.second(inner * inner) * (part * part).sum(0).unsqueeze(1)  # type: ignore[no-any-return]


def test_a_storage_travels_once_however_many_views_of_it_are_saved() -> None:
    """Oracle: what the block saves, by hand: x, inner, inner squared, the second's result, and the sum of squares."""
    host, chain, plain = PretendHost(), chain_of(Squares), chain_of(Squares)
    run(offloading(chain, host, 1), (0,))
    run(Stage(plain, WeightHalf()), (0,))
    assert host.moved[0] == 4 * BYTES + ROWS * 8
    assert all(torch.equal(*pair) for pair in zip(gradients(chain), gradients(plain), strict=True))  # type: ignore[arg-type]


class Tanh(nn.Module):
    """It saves what comes of it: a storage that flows on, too."""

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        return x.tanh()


def test_the_device_is_free_from_the_next_layers_forward_until_the_backward_above() -> None:
    """Oracle: the storages that are alive in each memory; a layer keeps its input and tanh's result."""
    host, chain = PretendHost(), chain_of(Middle, Middle, Middle, Middle)
    for block in chain:
        for parameter in block.parameters():
            parameter.grad = torch.zeros_like(parameter)
    stage = offloading(chain, host, 1, 2, 3, 4)
    on_device, on_host = [], []
    with LiveStorages() as live:

        def count(*flowing: Tensor) -> None:
            on_host.append(host.num_bytes // BYTES)
            on_device.append((live.bytes_beside(*flowing) - host.num_bytes) // BYTES)

        for number in range(5):
            stage.forward(0, None, BATCHES[0], number)
            count(stage._flows[0])  # type: ignore[arg-type]
        stage.forward(0, None, BATCHES[0], 5)
        count()
        for number in reversed(range(6)):
            stage.backward(0, block=number)
            count()
    assert on_host == [0, 2, 4, 6, 8, 8, *(8, 6, 4, 2, 0, 0)]
    head, gradient, layer = 1, 1, 2
    forwards = [0, layer, layer, layer, layer, layer + head]
    assert on_device == [*forwards, *4 * [gradient + layer], gradient, 0]


class Mark:
    """What a hook keeps of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


def test_the_hooks_around_keep_what_is_on_the_device_and_nothing_that_has_left() -> None:
    """Oracle: by hand, a layer keeps its input and tanh's result, which the next one's input does not share.

    All of the head's rows and a layer's are kept until the next has left, and again from when it is called back.
    """
    marks: WeakSet[Mark] = WeakSet()

    def mark(tensor: Tensor) -> Mark:
        marks.add(made := Mark(tensor))
        return made

    def kept() -> int:
        storages = {id_of(held.tensor): held.tensor.untyped_storage().nbytes() for held in marks}
        return sum(size for place, size in storages.items() if place not in parameters) // BYTES

    chain = chain_of(Middle, Middle, Middle, Middle)
    parameters = {id_of(parameter) for block in chain for parameter in block.parameters()}
    stage, found = offloading(chain, PretendHost(), 1, 2, 3, 4), []
    with saved_tensors_hooks(mark, lambda held: held.tensor):
        for number in range(6):
            stage.forward(0, None, BATCHES[0], number)
            found.append(kept())
        for number in reversed(range(6)):
            stage.backward(0, block=number)
            found.append(kept())
    layer, head = 2, 1
    assert found == [0, *4 * [layer], layer + head, *4 * [layer], 0, 0]


def test_what_is_needed_before_it_has_left_stays() -> None:
    """Oracle: the bytes that travel: of two layers the first leaves and comes, the second leaves and never comes."""
    host, chain = PretendHost(), chain_of(Middle, Middle)
    run(offloading(chain, host, 1, 2), (0,))
    assert host.moved == [4 * BYTES, 2 * BYTES]


def test_another_forward_does_not_take_what_was_called_back() -> None:
    """Oracle: the stage that moves nothing, in an order as of 1F1B: the backward has begun when the next one leaves.

    Of the 6 layers that leave 4 come back: the two that were called before they had left do not.
    """
    host = PretendHost()
    results: list[list[Tensor | None]] = []
    for chain in (chain_of(Middle, Middle), chain_of(Middle, Middle)):
        stage = offloading(chain, host, 1, 2) if not results else Stage(chain, WeightHalf())
        for number in (0, 1):
            stage.forward(number, None, BATCHES[number])
        stage.backward(1, block=3)
        stage.forward(2, None, BATCHES[2])
        for number in (1, 2, 0):
            stage.backward(number)
        results.append(gradients(chain))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    sizes = [2 * batch.tokens_bs.numel() * HIDDEN * 8 for batch in BATCHES]
    assert host.moved == [2 * sum(sizes), 2 * sizes[0] + sizes[1] + sizes[2]]


def test_parameters_and_what_is_small_stay() -> None:
    """Oracle: the bytes that travel, with limits just above and just at the size of a row's storage."""
    for smallest, travels in ((1, 2 * BYTES), (BYTES, 2 * BYTES), (BYTES + 1, 0)):
        host = PretendHost(smallest)
        run(offloading(chain_of(Middle, Tanh), host, 1), (0,))
        assert host.moved[0] == travels


class Passes(nn.Module):
    """It changes one tensor of a named set and passes the other on."""

    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> dict[str, Tensor]:
        return {**flow, "rows": flow["rows"] * flow["kept"]}


class Splits(nn.Module):
    def forward(self, x: Tensor, batch: MicroBatch) -> dict[str, Tensor]:
        return {"rows": x * 2, "kept": x * 3}


class Joins(nn.Module):
    def forward(self, flow: dict[str, Tensor], batch: MicroBatch) -> Tensor:
        return flow["rows"] + flow["kept"]


@pytest.mark.parametrize("recomputed", [(), (2,)])
def test_what_is_passed_on_or_saved_by_the_next_block_too_is_there_for_it(recomputed: tuple[int, ...]) -> None:
    """Oracle: the stage that moves nothing; the set's tensors are saved by one block and flow on into the next."""
    results = []
    for host in (PretendHost(), None):
        chain = chain_of(Splits, Passes, Passes, Joins, Tanh, Tanh)
        stage = (
            Stage(chain, WeightHalf(), [chain[number] for number in recomputed])
            if host is None
            else offloading(chain, host, *range(8), recomputed=recomputed)
        )
        results.append([run(stage), *gradients(chain)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


class Changes(nn.Module):
    """It changes a saved tensor in place when it has saved it, which autograd refuses."""

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        saved = x * 2
        squared = saved * saved
        saved.add_(1)
        return squared + saved.detach()


def test_a_saved_tensor_that_is_changed_in_place_is_refused_as_without_offload() -> None:
    """Oracle: autograd's own words."""
    for host in (PretendHost(), None):
        chain = chain_of(Changes)
        stage = Stage(chain, WeightHalf()) if host is None else offloading(chain, host, 1)
        stage.forward(0, None, BATCHES[0])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            stage.backward(0)


def test_an_evaluation_moves_nothing() -> None:
    """Oracle: the bytes that travel."""
    host = PretendHost()
    with torch.no_grad():
        offloading(blocks(), host, 1, 2).forward(0, None, BATCHES[0])
    assert host.moved == [0, 0]
