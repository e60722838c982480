"""The layer of BERT and its kin: a norm behind each residual sum instead of before attention and MLP."""

from torch import Tensor, nn

from megalm.batch import MicroBatch, Source
from megalm.mesh import Axis
from megalm.models.attention import SelfAttention
from megalm.models.layer_shapes import AttentionShape, MlpShape
from megalm.models.mlp import Mlp
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.norm import LayerNorm
from megalm.parallel.tensor.recomputed import through
from megalm.recompute import Operation


class PostNormLayer(nn.Module):
    """Attention to both sides, then an MLP; each is added to what it has read, and the sum is normed.

    Args:
        attention: the sizes of its attention.
        mlp: the sizes of its MLP.
        axis: the tensor axis.
        eps: of the norms.
        dropout: before each sum.
        sequence_parallel: whether the rows between blocks are cut over the axis.
    """

    def __init__(
        self,
        attention: AttentionShape,
        mlp: MlpShape,
        axis: Axis,
        *,
        eps: float,
        dropout: float,
        sequence_parallel: bool,
    ) -> None:
        """See the class."""
        super().__init__()
        hidden = attention.hidden_size
        self.self_attn = SelfAttention(attention, axis, None, causal=False, sequence_parallel=sequence_parallel)
        self.self_attn_layer_norm = LayerNorm(hidden, axis, eps=eps, sequence_parallel=sequence_parallel)
        self.mlp = Mlp(mlp, axis, sequence_parallel=sequence_parallel)
        self.final_layer_norm = LayerNorm(hidden, axis, eps=eps, sequence_parallel=sequence_parallel)
        self.attention_residual = Dropout(dropout, axis, sequence_parallel=sequence_parallel)
        self.mlp_residual = Dropout(dropout, axis, sequence_parallel=sequence_parallel)
        self.recomputed: frozenset[Operation] = frozenset()

    def forward(self, x: Tensor, batch: MicroBatch | Source) -> Tensor:
        """Map rows [n, hidden] to rows [n, hidden]."""
        return self._rows(x, batch, again=False)

    def again(self, x: Tensor, batch: MicroBatch | Source) -> Tensor:
        """Build the graph of ``forward`` for a backward that follows at once; the last norm reads all sums."""
        return self._rows(x, batch, again=True)

    def _rows(self, x: Tensor, batch: MicroBatch | Source, *, again: bool) -> Tensor:
        token_rows = batch.rows_bs.flatten()

        def think(attended: Tensor) -> Tensor:
            summed: Tensor = attended + self.mlp_residual(self.mlp(attended, token_rows, again=again), token_rows)
            return summed

        attended = x + self.attention_residual(self.self_attn(x, batch, again=again), token_rows)
        thought = through(self.self_attn_layer_norm, [attended], think, recompute="norm" in self.recomputed)
        normed: Tensor = self.final_layer_norm(thought)
        return normed
