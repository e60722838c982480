"""Parameters and FLOPs of an encoder in closed form; see ``counts``. No torch."""

from megalm.models.counts import BlockFlops
from megalm.models.encoder_shape import EncoderShape
from megalm.recompute import KEEP_ALL, RecomputeConfig


def linear_parameters_per_layer(shape: EncoderShape) -> int:
    """Return the entries of one layer's weight matrices."""
    return shape.hidden_size * (4 * shape.hidden_size + 2 * shape.intermediate_size)


def parameters_per_layer(shape: EncoderShape) -> int:
    """Return the entries of one layer: its matrices, biases and both norms."""
    return linear_parameters_per_layer(shape) + 5 * shape.hidden_size + shape.intermediate_size + 4 * shape.hidden_size


def num_parameters(shape: EncoderShape) -> int:
    """Return the number of parameters; a tied head counts once."""
    hidden = shape.hidden_size
    norm, square = 2 * hidden, hidden * hidden + hidden
    embedding = (shape.vocab_size + shape.max_positions + shape.num_segments) * hidden + norm
    head = square + norm + shape.vocab_size * (1 if shape.tied else 1 + hidden)
    head += square + 2 * hidden + 2 if shape.pools else 0
    return embedding + shape.num_layers * parameters_per_layer(shape) + head


def flops_by_block(
    shape: EncoderShape, seq_length: int, asked: float, recompute: RecomputeConfig = KEEP_ALL
) -> list[BlockFlops]:
    """Return the FLOPs that are done for one token, padding included, in each block: embedding, layers, head.

    Args:
        shape: the model.
        seq_length: tokens of a sample; each is seen by all, unless a pattern hides it.
        asked: share of the tokens that have a label: the head multiplies no others.
        recompute: what is computed again.
    """
    hidden = shape.hidden_size
    embedding = BlockFlops(3 * hidden, 0, 3 * hidden)
    of_pair = 2 * (hidden * hidden + 2 * hidden) / seq_length if shape.pools else 0
    small = round(2 * hidden * hidden * asked + of_pair)
    head = BlockFlops(round(3 * 2 * shape.vocab_size * hidden * asked) + small, small, small)
    return [embedding, *layers_flops(shape, seq_length, recompute), head]


def layers_flops(shape: EncoderShape, seq_length: int, recompute: RecomputeConfig, first: int = 0) -> list[BlockFlops]:
    """Return the FLOPs that are done for one token in each layer.

    Args:
        shape: the encoder.
        seq_length: see ``flops_by_block``.
        recompute: what is computed again.
        first: how many layers of the model, as ``recompute`` counts them, come before this encoder's.
    """
    products = 2 * linear_parameters_per_layer(shape)
    cores = [attention_flops(shape, layer, seq_length) for layer in range(shape.num_layers)]
    again = [recomputed_flops(shape, seq_length, recompute, layer, first) for layer in range(shape.num_layers)]
    return [
        BlockFlops(products + core, products + 2 * core + more, products)
        for core, more in zip(cores, again, strict=True)
    ]


def attention_flops(shape: EncoderShape, layer: int, seq_length: int) -> int:
    """Return the FLOPs of one layer's attention for one token, beside its weights' products."""
    return 4 * shape.keys_seen(layer, seq_length) * shape.hidden_size


def recomputed_flops(
    shape: EncoderShape, seq_length: int, recompute: RecomputeConfig, layer: int, first: int = 0
) -> int:
    """Return the FLOPs that one layer computes again for one token; its last norm reads all of its products.

    Sparse attention keeps nothing but its inputs in every mode, so its core is computed once more. ``first`` as in
    ``layers_flops``.
    """
    core = attention_flops(shape, layer, seq_length)
    sparse = core if shape.is_sparse(layer, seq_length) else 0
    if recompute.is_full(first + layer):
        return sparse + core + 2 * linear_parameters_per_layer(shape)
    return sparse + core if "attention_core" in recompute.operations_of(first + layer) else sparse


def training_flops_per_token(shape: EncoderShape, seq_length: int, asked: float) -> int:
    """Return the FLOPs of products in forward and backward for one token, without what is computed again."""
    blocks = flops_by_block(shape, seq_length, asked)
    again = sum(recomputed_flops(shape, seq_length, KEEP_ALL, layer) for layer in range(shape.num_layers))
    return sum(block.whole for block in blocks) - blocks[0].whole - again


def hardware_flops_per_token(shape: EncoderShape, seq_length: int, asked: float, recompute: RecomputeConfig) -> int:
    """Return the FLOPs that are done for one token: those of training, and what is computed again."""
    again = sum(recomputed_flops(shape, seq_length, recompute, layer) for layer in range(shape.num_layers))
    return training_flops_per_token(shape, seq_length, asked) + again
