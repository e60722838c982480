"""Parameters and FLOPs of a generator and a discriminator in closed form; see ``counts``. No torch."""

from megalm.models import encoder_counts
from megalm.models.counts import BlockFlops
from megalm.models.electra_shape import ElectraShape
from megalm.models.encoder_shape import EncoderShape
from megalm.recompute import KEEP_ALL, RecomputeConfig


def num_parameters(shape: ElectraShape) -> int:
    """Return the number of parameters; what both encoders share counts once."""
    embedded, hidden = shape.embedding.hidden_size, shape.discriminator.hidden_size
    tables = shape.embedding.vocab_size + shape.embedding.max_positions + shape.embedding.num_segments
    towers = sum(_tower_parameters(encoder, embedded) for encoder in (shape.generator, shape.discriminator))
    generator_head = (shape.generator.hidden_size + 1) * embedded + 2 * embedded
    generator_head += shape.generator.vocab_size * (1 if shape.generator.tied else 1 + embedded)
    return tables * embedded + 2 * embedded + towers + generator_head + (hidden + 1) * hidden + hidden + 1


def _tower_parameters(shape: EncoderShape, embedded: int) -> int:
    hidden = shape.hidden_size
    projection = 0 if embedded == hidden else (embedded + 1) * hidden
    return projection + shape.num_layers * encoder_counts.parameters_per_layer(shape)


def flops_by_block(
    shape: ElectraShape, seq_length: int, asked: float, recompute: RecomputeConfig = KEEP_ALL
) -> list[BlockFlops]:
    """Return the FLOPs that are done for one token in each block: of the generator, then of the discriminator.

    What is drawn from the generator costs its output product once more, which has no backward.

    Args:
        shape: the model.
        seq_length: tokens of a sample.
        asked: share of the tokens that the generator names; all are judged.
        recompute: what is computed again. Its layers are all blocks between the first and the last.
    """
    num_layers, embedded = shape.generator.num_layers, shape.embedding.hidden_size
    discriminator_embedding = num_layers + 1
    dense = round(2 * shape.generator.hidden_size * embedded * asked)
    naming = round(2 * shape.generator.vocab_size * embedded * asked)
    hidden = shape.discriminator.hidden_size
    judging = 2 * (hidden * hidden + hidden)
    return [
        _embedding(shape.generator, embedded, again=False),
        *encoder_counts.layers_flops(shape.generator, seq_length, recompute),
        _generator_head(dense, naming, again=recompute.is_full(num_layers)),
        _embedding(shape.discriminator, embedded, again=recompute.is_full(discriminator_embedding)),
        *encoder_counts.layers_flops(shape.discriminator, seq_length, recompute, discriminator_embedding + 1),
        BlockFlops(judging, judging, judging),
    ]


def _generator_head(dense: int, naming: int, *, again: bool) -> BlockFlops:
    """Return what the generator's head costs: the output product makes its gradients in the pass that has a graph."""
    if again:
        return BlockFlops(dense + 2 * naming, 2 * dense + 3 * naming, dense)
    return BlockFlops(dense + 4 * naming, dense, dense)


def _embedding(encoder: EncoderShape, embedded: int, *, again: bool) -> BlockFlops:
    """Return what an encoder's beginning costs: additions, and the product that makes its features of embedded ones."""
    projection = 0 if embedded == encoder.hidden_size else 2 * embedded * encoder.hidden_size
    additions = 3 * embedded
    return BlockFlops(additions + projection, projection * (2 if again else 1), additions + projection)


def training_flops_per_token(shape: ElectraShape, seq_length: int, asked: float) -> int:
    """Return the FLOPs of products in forward and backward for one token, without what is computed again."""
    again = sum(
        encoder_counts.recomputed_flops(encoder, seq_length, KEEP_ALL, layer)
        for encoder in (shape.generator, shape.discriminator)
        for layer in range(encoder.num_layers)
    )
    return hardware_flops_per_token(shape, seq_length, asked, KEEP_ALL) - again


def hardware_flops_per_token(shape: ElectraShape, seq_length: int, asked: float, recompute: RecomputeConfig) -> int:
    """Return the FLOPs that are done for one token: those of training, and what is computed again."""
    additions = 2 * 2 * 3 * shape.embedding.hidden_size
    return sum(block.whole for block in flops_by_block(shape, seq_length, asked, recompute)) - additions
