"""Oracle: attention over the masked square of all queries and keys, the mask written out place by place, in float64."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from megalm import rng
from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.attention import SelfAttention
from megalm.models.attention_pattern import AttentionConfig, Blocks, Pattern
from megalm.models.layer_shapes import AttentionShape
from megalm.models.sparse_attention import SparseCore

B, HEADS, HEAD_DIM, DIVISOR = 2, 3, 4, 1.7
EXACT = 1e-12
LAYER = 1

WINDOW = {"pattern": "sliding_window", "window": 5}
DILATED = {"pattern": "dilated", "window": 4, "dilation": 3}
BLOCKS = {"pattern": "block_sparse", "block_size": 4, "num_local_blocks": 2}
BIG_BIRD = {**BLOCKS, "num_local_blocks": 1, "num_global_blocks": 2, "num_random_blocks": 2}


@dataclass(frozen=True)
class Case:
    """A pattern over a sequence.

    Args:
        fields: of the attention section.
        length: of the sequence.
        causal: no later keys.
        documents: lengths of the documents of both samples, the last one padding.
    """

    fields: dict[str, Any]
    length: int
    causal: bool = True
    documents: tuple[tuple[int, ...], ...] = ()

    @property
    def pattern(self) -> Pattern:
        pattern = AttentionConfig.model_validate(self.fields).of_layer(LAYER)
        assert pattern is not None
        return pattern


PACKED = ((9, 1, 40, 3), (30, 17, 5, 1))
CASES = {
    "window": Case(WINDOW, 53),
    "window, whole tiles": Case(WINDOW, 48),
    "window of one": Case({**WINDOW, "window": 1}, 40),
    "window over many tiles": Case({**WINDOW, "window": 150}, 400),
    "window to both sides": Case(WINDOW, 53, causal=False),
    "window, whole tiles to both sides": Case({**WINDOW, "window": 17}, 64, causal=False),
    "window, packed": Case(WINDOW, 53, documents=PACKED),
    "window to both sides, packed": Case(WINDOW, 53, causal=False, documents=PACKED),
    "dilated": Case(DILATED, 110),
    "dilated, whole tiles": Case(DILATED, 96),
    "dilated to both sides": Case(DILATED, 110, causal=False),
    "dilated, packed": Case(DILATED, 53, documents=PACKED),
    "blocks": Case(BLOCKS, 53),
    "blocks to both sides": Case(BLOCKS, 53, causal=False),
    "blocks of one": Case({**BLOCKS, "block_size": 1, "num_local_blocks": 3}, 12),
    "local, global and random": Case(BIG_BIRD, 53),
    "local, global and random, whole blocks": Case(BIG_BIRD, 52),
    "local, global and random to both sides": Case(BIG_BIRD, 53, causal=False),
    "local, global and random, whole blocks to both sides": Case(BIG_BIRD, 52, causal=False),
    "local, global and random, packed": Case(BIG_BIRD, 53, documents=PACKED),
    "local, global and random to both sides, packed": Case(BIG_BIRD, 53, causal=False, documents=PACKED),
    "shorter than a block": Case(BIG_BIRD, 3, causal=False),
}


def sees(case: Case, query: int, key: int) -> bool:
    """Say by hand whether a query sees a key of its document; which blocks are drawn is judged elsewhere."""
    if case.causal and key > query:
        return False
    apart = abs(query - key)
    if "window" in case.fields:
        step, window = int(case.fields.get("dilation", 1)), int(case.fields["window"])
        return apart % step == 0 and apart // step < window
    size = int(case.fields["block_size"])
    of_query, of_key = query // size, key // size
    few, near = int(case.fields.get("num_global_blocks", 0)), int(case.fields["num_local_blocks"])
    if of_key < few or of_query < few or abs(of_query - of_key) < near:
        return True
    pattern = case.pattern
    assert isinstance(pattern, Blocks)
    return (
        of_key in pattern.slots(of_query, -(-case.length // size), causal=case.causal)[few : few + pattern.num_random]
    )


def documents_of(case: Case) -> Tensor | None:
    if not case.documents:
        return None
    rows = [
        [-1 if number == len(lengths) - 1 else number for number, length in enumerate(lengths) for _ in range(length)]
        for lengths in case.documents
    ]
    return torch.tensor(rows, dtype=torch.int32)


def mask_of(case: Case) -> Tensor:
    places = range(case.length)
    seen = torch.tensor([[sees(case, query, key) for key in places] for query in places]).expand(B, -1, -1)
    documents = documents_of(case)
    return seen if documents is None else seen & (documents.unsqueeze(2) == documents.unsqueeze(1))


def inputs_of(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (B, length, HEADS, HEAD_DIM)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]


def masked(inputs: list[Tensor], seen: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return the rows of attention over the masked square; ``kept`` multiplies its probabilities."""
    q, k, v = (tensor.transpose(1, 2) for tensor in inputs)
    scores = (q @ k.transpose(-1, -2) / DIVISOR).masked_fill(~seen.unsqueeze(1), float("-inf"))
    probabilities = scores.softmax(-1)
    return ((probabilities if kept is None else probabilities * kept) @ v).transpose(1, 2)


def with_gradients(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    told = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad((out * told).sum(), inputs)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    apart = [float((mine - theirs).abs().max()) for mine, theirs in zip(found, expected, strict=True)]
    assert all(far <= EXACT for far in apart), apart


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("working", [1, 1 << 20], ids=["tile by tile", "at once"])
def test_equals_the_masked_square(case: Case, working: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("megalm.models.sparse_attention._WORKING_NUMBERS", working)
    inputs = inputs_of(case.length)
    core = SparseCore(case.pattern, case.causal, DIVISOR, documents_of(case))
    assert_equal(with_gradients(core(*inputs), inputs), with_gradients(masked(inputs, mask_of(case)), inputs))


@pytest.mark.parametrize(
    "name", ["window, packed", "dilated", "local, global and random", "local, global and random to both sides"]
)
def test_what_drops_is_what_drops_in_the_square(name: str) -> None:
    """Drawn by the number of query and head in the run and the key's place, here for the last heads of five."""
    case, num_heads, p = CASES[name], 5, 0.3
    shape = AttentionShape(20, num_heads, num_heads, HEAD_DIM, DIVISOR, p, False, False, 1, 1, 1, case.pattern)
    axis = Axis("tp", (0, 1), 1)
    attention = SelfAttention(shape, axis, None, causal=case.causal, sequence_parallel=False)
    rows_bs = torch.arange(B * case.length).view(B, case.length) + 1000
    batch = MicroBatch(rows_bs, rows_bs, rows_bs, rows_bs, 1.0, documents_of(case))
    inputs = [tensor[:, :, :2].detach().requires_grad_() for tensor in inputs_of(case.length)]

    rows_bhq = rows_bs.unsqueeze(1) * num_heads + torch.tensor([3, 4]).view(1, -1, 1)
    kept = rng.keep_mask(attention.stream, rows_bhq, torch.arange(case.length), p).double() / (1 - p)
    expected = masked(inputs, mask_of(case), kept)
    found = attention._between(*(tensor.flatten(0, 1).flatten(1) for tensor in inputs), of=batch, to=batch)

    assert_equal(with_gradients(found.view(expected.shape), inputs), with_gradients(expected, inputs))
