"""Oracle: the mask of the whole rows, applied by hand, and the dropout of one process."""

import pytest
import torch
from torch import Tensor, nn

from megalm import rng
from megalm.mesh import Axis
from megalm.parallel.tensor.dropout import Dropout, InnerDropout, name_streams
from tests.parallel.tensor import slices
from tests.ranks import RankContext, RankPool

HIDDEN, TOKENS, P = 8, 7, 0.3
TOKEN_ROWS = torch.tensor([900, 901, 902, 14, 15, 16, 2**40])


def drop(context: RankContext, sequence_parallel: bool) -> tuple[Tensor, Tensor]:
    layer = Dropout(P, slices.tensor_axis(context), sequence_parallel=sequence_parallel)
    layer.stream = 77
    x = slices.local_leaf(layer.region, slices.random(TOKENS, HIDDEN))
    out = layer(x, TOKEN_ROWS)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    return out.detach(), x.grad


def alone(p: float = P) -> Dropout:
    layer = Dropout(p, Axis.alone())
    layer.stream = 77
    return layer


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_same_elements_drop_at_every_cut(ranks: RankPool, size: int, sequence_parallel: bool) -> None:
    found = ranks.run(size, drop, sequence_parallel)
    kept = rng.keep_mask(77, TOKEN_ROWS, torch.arange(HIDDEN), P).double() / (1 - P)
    out = slices.whole_rows([one for one, _ in found], TOKENS, cut=sequence_parallel)
    gradient = slices.whole_rows([dx for _, dx in found], TOKENS, cut=sequence_parallel)
    slices.assert_close(out, slices.random(TOKENS, HIDDEN) * kept)
    slices.assert_close(gradient, kept)
    assert 0 < (kept == 0).sum() < kept.numel()


def test_micro_batches_do_not_change_what_drops() -> None:
    x = slices.random(TOKENS, HIDDEN)
    whole = alone()(x, TOKEN_ROWS)
    parts = [alone()(x[part], TOKEN_ROWS[part]) for part in (slice(0, 2), slice(2, 3), slice(3, 7))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(alone()(x.flip(0), TOKEN_ROWS.flip(0)), whole.flip(0))


def test_the_mean_stays() -> None:
    out = alone(0.1)(torch.ones(1000, 1000), torch.arange(1000))
    assert abs(out.mean().item() - 1) < 5 * (0.1 / 0.9) ** 0.5 / 1000
    assert set(out.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).item()}


def test_nothing_drops_in_evaluation_or_with_p_0() -> None:
    x = slices.random(TOKENS, HIDDEN)
    assert alone().eval()(x, TOKEN_ROWS) is x
    assert alone(0.0)(x, TOKEN_ROWS) is x


def test_a_stream_is_named_by_the_seed_and_the_path() -> None:
    def model() -> nn.Sequential:
        return nn.Sequential(alone(), nn.Sequential(alone(), nn.Linear(2, 2)))

    streams = []
    for seed in (1, 2, 1):
        named = model()
        name_streams(named, seed)
        streams.append([module.stream for module in named.modules() if isinstance(module, Dropout)])
    assert streams[0] == streams[2] == [rng.key(1, "dropout", "0"), rng.key(1, "dropout", "1.0")]
    assert len({*streams[0], *streams[1]}) == 4


def test_inside_a_span_the_same_elements_drop_at_every_cut_of_the_features() -> None:
    """Rows of padding stand behind those of the tokens."""
    kept = rng.keep_mask(77, TOKEN_ROWS, torch.arange(HIDDEN), P).double() / (1 - P)
    x = slices.random(TOKENS, HIDDEN)
    for start, stop in ((0, HIDDEN), (0, 3), (3, HIDDEN)):
        layer = InnerDropout(P, start)
        layer.stream = 77
        out = layer(torch.cat([x, x[:2]])[:, start:stop], TOKEN_ROWS)
        slices.assert_close(out[:TOKENS], (x * kept)[:, start:stop])
        assert out.shape == (TOKENS + 2, stop - start)
        assert layer.eval()(x, TOKEN_ROWS) is x
