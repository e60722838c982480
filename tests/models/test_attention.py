"""Oracle: attention written out, one softmax over the keys that a query sees, by autograd in float64."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from megalm.batch import MicroBatch, Source
from megalm.mesh import Axis
from megalm.models.attention import Attention, CrossAttention, SelfAttention
from megalm.models.layer_shapes import AttentionShape

HIDDEN, HEADS, HEAD_DIM = 12, 3, 5
B, QUERIES, KEYS = 2, 7, 6
DIVISOR = 1.7
EXACT = 1e-12
NEARLY_NONE = 1e-15
"""A dropout so rare that nothing drops, but the path that draws masks is taken."""

PADDED = [[0, 0, 0, 0, 0, -1, -1], [0, 0, 0, 1, 1, 1, -1]]
PADDED_KEYS = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, -1]]


@dataclass(frozen=True)
class Case:
    """What the queries see.

    Args:
        causal: no later keys.
        documents: of the queries.
        keys: documents of the source that is attended to; an empty list is a source without documents.
        bias: whether scores have one.
    """

    causal: bool = False
    documents: list[list[int]] | None = None
    keys: list[list[int]] | None = None
    bias: bool = False


CASES = {
    "all": Case(),
    "earlier": Case(causal=True),
    "all, padded and packed": Case(documents=PADDED),
    "earlier, padded and packed": Case(causal=True, documents=PADDED),
    "all, bias": Case(bias=True),
    "earlier, bias": Case(causal=True, bias=True),
    "all, padded, bias": Case(documents=PADDED, bias=True),
    "source": Case(keys=[]),
    "padded source": Case(keys=PADDED_KEYS),
    "padded and packed source of padded and packed": Case(documents=PADDED, keys=PADDED_KEYS),
}


def batch_of(case: Case) -> MicroBatch:
    places = torch.arange(QUERIES).expand(B, QUERIES)
    rows = torch.arange(B * QUERIES).view(B, QUERIES)
    documents = None if case.documents is None else torch.tensor(case.documents, dtype=torch.int32)
    source = None
    if case.keys is not None:
        source_rows = torch.arange(B * KEYS).view(B, KEYS)
        of_keys = torch.tensor(case.keys, dtype=torch.int32) if case.keys else None
        source = Source(source_rows, source_rows, source_rows, of_keys)
    return MicroBatch(rows, rows, places, rows, 1.0, documents, source=source)


def attention_of(case: Case, dropout: float) -> Attention:
    shape = AttentionShape(HIDDEN, HEADS, HEADS, HEAD_DIM, DIVISOR, dropout, True, True, 0.5, 0.5, 0.5)
    torch.manual_seed(5)
    if case.keys is None:
        return SelfAttention(shape, Axis.alone(), None, causal=case.causal, sequence_parallel=False).double()
    return CrossAttention(shape, Axis.alone(), sequence_parallel=False).double()


def inputs_of(case: Case) -> list[Tensor]:
    """Return the rows, those of the source, and the bias, where the case has them."""
    generator = torch.Generator().manual_seed(11)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    source = [] if case.keys is None else [draw(B * KEYS, HIDDEN)]
    return [draw(B * QUERIES, HIDDEN), *source, *([draw(HEADS, QUERIES, QUERIES)] if case.bias else [])]


def ours(case: Case, attention: Attention, inputs: list[Tensor]) -> Tensor:
    out: Tensor
    if case.keys is None:
        out = attention(inputs[0], batch_of(case), bias_hqk=inputs[1] if case.bias else None)
    else:
        out = attention(*inputs, batch_of(case))
    return out


def sees(case: Case, sample: int, query: int, key: int) -> bool:
    """Say by hand whether a query that is no padding sees a key."""
    if case.causal and key > query:
        return False
    of_query = 0 if case.documents is None else case.documents[sample][query]
    keys = case.documents if case.keys is None else case.keys
    if not keys:
        return True
    return keys[sample][key] == of_query if case.documents is not None else keys[sample][key] >= 0


def written_out(case: Case, attention: Attention, inputs: list[Tensor]) -> Tensor:
    """Return the rows of the queries, one by one; padding's are left 0."""
    of = inputs[0] if case.keys is None else inputs[1]
    keys = of.shape[0] // B
    weight, bias = attention.o_proj.weight, attention.o_proj.bias
    assert bias is not None
    q = torch.nn.functional.linear(inputs[0], attention.q_proj.weight, attention.q_proj.bias)
    k = torch.nn.functional.linear(of, attention.k_proj.weight, attention.k_proj.bias)
    v = torch.nn.functional.linear(of, attention.v_proj.weight, attention.v_proj.bias)
    rows = []
    for sample in range(B):
        for query in range(QUERIES):
            seen = [key for key in range(keys) if sees(case, sample, query, key)]
            if case.documents is not None and case.documents[sample][query] < 0:
                rows.append(torch.zeros(HIDDEN, dtype=torch.float64))
                continue
            heads = []
            for head in range(HEADS):
                part = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
                at = [sample * keys + key for key in seen]
                scores = k[at, part] @ q[sample * QUERIES + query, part] / DIVISOR
                if case.bias:
                    scores = scores + inputs[-1][head, query, seen]
                heads.append(scores.softmax(0) @ v[at, part])
            rows.append(weight @ torch.cat(heads) + bias)
    return torch.stack(rows)


def learned(out: Tensor, case: Case, attention: Attention, inputs: list[Tensor]) -> list[Tensor]:
    """Return the rows that somebody reads, and the gradients of all that they are made of."""
    if case.documents is not None:
        out = out * (torch.tensor(case.documents).flatten() >= 0).unsqueeze(1)
    generator = torch.Generator().manual_seed(13)
    told = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad((out * told).sum(), [*inputs, *attention.parameters()])
    return [out.detach(), *gradients]


@pytest.mark.parametrize("path", ["kernel", "recomputed", "drops"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_attention_written_out(case: Case, path: str) -> None:
    attention = attention_of(case, NEARLY_NONE if path == "drops" else 0.0)
    if path == "recomputed":
        attention.recomputed = frozenset({"attention_core"})
    inputs = inputs_of(case)

    found = learned(ours(case, attention, inputs), case, attention, inputs)
    expected = learned(written_out(case, attention, inputs), case, attention, inputs)

    apart = [float((mine - theirs).abs().max()) for mine, theirs in zip(found, expected, strict=True)]
    assert all(far <= EXACT for far in apart)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_drops_is_drawn_by_position(case: Case) -> None:
    """Oracle: a sample that passes alone, and all of it once more."""
    attention = attention_of(case, 0.4)
    inputs = inputs_of(case)
    whole = ours(case, attention, inputs)

    assert torch.equal(whole, ours(case, attention, inputs))
    assert not torch.allclose(whole, ours(case, attention.eval(), inputs))
    attention.train()
    last = batch_of(case).mapped(lambda tensor: tensor[1:])
    of_last = [inputs[0][QUERIES:], *([inputs[1][KEYS:]] if case.keys is not None else [])]
    alone = attention(*of_last, last, **({"bias_hqk": inputs[1]} if case.bias else {}))
    assert torch.allclose(whole[QUERIES:], alone, rtol=0, atol=EXACT)
