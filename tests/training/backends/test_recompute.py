"""Oracle: the losses of one process that keeps everything, and the closed form of what the layers keep."""

from typing import Any

import pytest
from torch import Tensor
from torch.overrides import TorchFunctionMode

from megalm.layout import Layout
from megalm.models.activations import MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.run_config import RunConfig
from megalm.training.backends.foreign import Foreign
from tests.models.live_storages import LiveStorages
from tests.ranks import RankContext, RankPool
from tests.training.backends.runs import Seen, begin, go_on, run_config, trained
from tests.training.backends.test_foreign import DATA, ENGINES, TENSOR, check

STEPS = 4
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "none"},
    {"mode": "full"},
    {"mode": "full", "every": 2},
    {"mode": "selective", "operations": ["attention_core", "activation", "norm"]},
)
DROPOUT = {"embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}


def kept_after_training(context: RankContext, configs: list[RunConfig]) -> list[tuple[Seen, int]]:
    """Return of each run its losses, and the bytes that are alive between a forward and its backward."""
    found = []
    for config in configs:
        state, feed = begin(config)
        assert isinstance(state, Foreign)
        seen = Seen()
        go_on(state, feed, seen, STEPS)
        batch = feed.training_step(STEPS)[0]
        with LiveStorages() as live:
            loss = state.infer(batch)
            found.append((seen, live.bytes_beside(loss)))
    return found


def kept_by_layers(config: RunConfig) -> int:
    size = MicroBatchSize(config.train.micro_batch_size, config.train.seq_length, tp_size=config.layout.tp)
    return sum(block.for_backward for block in kept_by_block(DecoderShape.of(config.model), size, config.recompute))


@pytest.fixture(scope="module")
def alone() -> Seen:
    return trained(run_config(Layout(), "native", 0), STEPS)


@pytest.fixture(scope="module")
def alone_dropping() -> Seen:
    return trained(run_config(Layout(), "native", 0, model=DROPOUT), STEPS)


@pytest.mark.parametrize(("backend", "stage"), ENGINES)
def test_less_is_kept_and_the_losses_stay(ranks: RankPool, alone: Seen, backend: str, stage: int) -> None:
    configs = [run_config(DATA, backend, stage, recompute=mode) for mode in MODES]
    saved = [kept_by_layers(configs[0]) - kept_by_layers(config) for config in configs]
    assert 0 < saved[2] < saved[1]
    for by_mode in ranks.run(2, kept_after_training, configs):
        for seen, _ in by_mode:
            check(seen, alone)
        assert [by_mode[0][1] - kept for _, kept in by_mode] == saved


@pytest.mark.parametrize(("backend", "stage"), [ENGINES[1], ENGINES[5], ENGINES[7]])
def test_dropout_and_tensor_parallel_layers_are_the_same_again(
    ranks: RankPool, alone_dropping: Seen, backend: str, stage: int
) -> None:
    config = run_config(TENSOR, backend, stage, model=DROPOUT, recompute={"mode": "full"})
    for ((seen, _),) in ranks.run(4, kept_after_training, [config]):
        check(seen, alone_dropping)


class MovesToTheHost(TorchFunctionMode):
    """Counts the tensors that are asked to be there; on a CPU they are there already."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is Tensor.to and args[1:] == ("cpu",)
        return func(*args, **(kwargs or {}))


def trained_with_inputs_on_the_host(context: RankContext, config: RunConfig) -> tuple[Seen, int]:
    """Return of a run its losses, and how many tensors a forward has moved to the host."""
    state, feed = begin(config)
    assert isinstance(state, Foreign)
    seen = Seen()
    go_on(state, feed, seen, STEPS)
    batch = feed.training_step(STEPS)[0]
    with MovesToTheHost() as moves:
        state.infer(batch)
    return seen, moves.count


@pytest.mark.parametrize("stage", [1, 3])
def test_fairscale_keeps_inputs_on_the_host(ranks: RankPool, alone: Seen, stage: int) -> None:
    config = run_config(DATA, "fairscale", stage, recompute={"mode": "full", "offload": "cpu"})
    for seen, moved in ranks.run(2, trained_with_inputs_on_the_host, config):
        check(seen, alone)
        assert moved == config.model.num_hidden_layers
