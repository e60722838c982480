"""A model of your own over the parallel layers: causal convolutions instead of attention, mixed with plain torch.

Name its builder in the run file, and run the command where this file can be imported::

    megalm train examples/own_model.yaml
    megalm verify examples/own_model.yaml layout.tp=2

Nothing below asks how many ranks there are: with ``Axis.alone()`` it is an ordinary module.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from megalm import Axis
from megalm.errors import UserError
from megalm.layers import (
    ColumnParallelLinear,
    Init,
    MicroBatch,
    ParamSpec,
    RowParallelLinear,
    Split,
    VocabParallelEmbedding,
    VocabParallelHead,
    column_products,
    even_ranges,
    new_parameter,
)
from megalm.models.config import ModelConfig


class Mixer(nn.Module):
    """Mixes each feature over places behind it, and gates the result: one span, its inner features cut over the axis.

    Args:
        hidden: features of a row.
        inner: features inside; the axis need not divide them.
        width: places that one convolution reads.
        dilation: distance between them.
        axis: the tensor axis.
    """

    def __init__(self, hidden: int, inner: int, width: int, dilation: int, axis: Axis) -> None:
        super().__init__()
        self.dilation = dilation
        self.norm = nn.LayerNorm(hidden)  # plain torch: whole on every rank, and every rank sees all rows
        self.gate = ColumnParallelLinear(hidden, inner, axis)
        self.value = ColumnParallelLinear(hidden, inner, axis)
        split = Split(axis.name, 0, even_ranges(inner, axis.size))
        self.kernel = new_parameter(ParamSpec((inner, width), Init.normal(0.3), split), {axis.name: axis.rank})
        self.out = RowParallelLinear(inner, hidden, axis)

    def forward(self, x: Tensor, b: int) -> Tensor:
        """Map the rows [tokens, hidden] of ``b`` sequences to rows."""
        gate, value = column_products(self.norm(x), (self.gate, self.value))
        value_bfs = value.unflatten(0, (b, -1)).transpose(1, 2)
        before = (self.kernel.shape[1] - 1) * self.dilation
        mixed_bfs = F.conv1d(
            F.pad(value_bfs, (before, 0)),
            self.kernel.unsqueeze(1),
            dilation=self.dilation,
            groups=self.kernel.shape[0],
        )
        rows: Tensor = x + self.out(F.silu(gate) * mixed_bfs.transpose(1, 2).flatten(0, 1))
        return rows


class Convolutions(nn.Module):
    """Embedding, mixers that look back ever further, and the output head tied to the embedding.

    Args:
        config: the ``model`` section; ``options.kernel_width`` is this model's own key.
        axis: the tensor axis.
    """

    def __init__(self, config: ModelConfig, axis: Axis) -> None:
        super().__init__()
        hidden, width = config.hidden_size, config.options.get("kernel_width", 4)
        self.tokens = VocabParallelEmbedding(config.vocab_size, hidden, axis, std=config.initializer_range)
        self.places = nn.Embedding(config.max_position_embeddings, hidden)
        self.places.weight.requires_grad_(False)  # frozen: what torch drew stays, in checkpoints too
        self.mixers = nn.ModuleList(
            Mixer(hidden, config.intermediate_size or 2 * hidden, width, width**layer, axis)
            for layer in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(hidden)
        self.head = VocabParallelHead(config.vocab_size, hidden, axis, weight=self.tokens.weight)

    def forward(self, batch: MicroBatch) -> Tensor:
        """Return the sum of the micro-batch's token losses times ``batch.loss_scale``."""
        x: Tensor = self.tokens(batch.tokens_bs.flatten())
        x = x + 0.02 * self.places(batch.positions_bs.flatten())
        for mixer in self.mixers:
            x = mixer(x, len(batch.tokens_bs))
        loss: Tensor = self.head(self.norm(x), batch.labels_bs.flatten(), batch.loss_scale)
        return loss


def build(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    """Build this rank's slice of the model; ``model.family`` names this function.

    Args:
        config: the ``model`` section.
        axis: the tensor axis.
        sequence_parallel: from the ``tensor`` section.

    Raises:
        UserError: sequence parallelism is asked for; plain torch norms between the spans would see only some rows.
    """
    if sequence_parallel:
        raise UserError("examples.own_model has plain torch norms; set tensor.sequence_parallel: false.")
    return Convolutions(config, axis)
