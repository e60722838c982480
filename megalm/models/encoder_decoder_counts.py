"""Parameters and FLOPs of an encoder-decoder in closed form; see ``counts``. No torch."""

from megalm.models.counts import BlockFlops
from megalm.models.encoder_decoder_shape import EncoderDecoderShape, StackShape
from megalm.models.layer_shapes import AttentionShape, MlpShape
from megalm.recompute import KEEP_ALL, RecomputeConfig


def num_parameters(shape: EncoderDecoderShape) -> int:
    """Return the number of parameters that are learned; a tied head counts once."""
    table = shape.vocab_size * shape.hidden_size
    stacks = _stack_parameters(shape, shape.encoder, 1) + _stack_parameters(shape, shape.decoder, 2)
    return table * (1 if shape.tied else 2) + stacks


def _stack_parameters(shape: EncoderDecoderShape, stack: StackShape, attentions: int) -> int:
    """Return the parameters of a stack whose layers have so many attentions."""
    norm = shape.hidden_size * (1 if shape.rms_norm else 2)
    if shape.relative is None:
        positions = shape.position_rows * shape.hidden_size
    else:
        positions = shape.relative.num_buckets * stack.attention.num_heads
    attention, mlp = stack.attention, stack.mlp
    entries = attentions * _entries_of_attention(attention) + _entries_of_mlp(shape, mlp)
    width = attention.num_heads * attention.head_dim
    of_attention = 3 * width * attention.qkv_bias + attention.hidden_size * attention.out_bias
    of_mlp = ((2 if shape.gated_mlp else 1) * mlp.intermediate_size + mlp.hidden_size) * mlp.bias
    layer = entries + attentions * of_attention + of_mlp + (attentions + 1) * norm
    return positions + stack.num_layers * layer + norm


def _entries_of_attention(attention: AttentionShape) -> int:
    return 4 * attention.hidden_size * attention.num_heads * attention.head_dim


def _entries_of_mlp(shape: EncoderDecoderShape, mlp: MlpShape) -> int:
    return (3 if shape.gated_mlp else 2) * mlp.hidden_size * mlp.intermediate_size


def flops_by_block(
    shape: EncoderDecoderShape, source: float, target: float, recompute: RecomputeConfig = KEEP_ALL
) -> list[BlockFlops]:
    """Return the FLOPs that are done for one sample in each block: both embeddings, both stacks' layers, the head.

    Args:
        shape: the model.
        source: tokens that the encoder reads, padding included; each sees all.
        target: tokens that the decoder reads; counted without the causal half.
        recompute: what is computed again. Its layers are counted over both stacks, with the decoder's embedding
            between them.
    """
    hidden = shape.hidden_size
    additions = hidden * (2 if shape.relative is None else 1)
    encoder, decoder = shape.encoder, shape.decoder
    read = 2 * source * (_entries_of_attention(encoder.attention) + _entries_of_mlp(shape, encoder.mlp))
    of_decoder = _entries_of_attention(decoder.attention)
    said = 2 * target * (of_decoder + of_decoder / 2 + _entries_of_mlp(shape, decoder.mlp)) + source * of_decoder
    width = 4 * decoder.attention.num_heads * decoder.attention.head_dim
    read_core = 4 * source * source * encoder.attention.num_heads * encoder.attention.head_dim
    said_core = width * target * (target + source)
    first = encoder.num_layers + 1
    head = round(3 * 2 * target * shape.vocab_size * hidden)
    return [
        _embedding(source * additions),
        *(
            _layer(read, read_core, _unread(shape, encoder, source), recompute, layer)
            for layer in range(encoder.num_layers)
        ),
        _embedding(target * additions),
        *(
            _layer(said, said_core, _unread(shape, decoder, target), recompute, layer)
            for layer in range(first, first + decoder.num_layers)
        ),
        BlockFlops(head, 0, 0),
    ]


def training_flops(shape: EncoderDecoderShape, source: float, target: float) -> int:
    """Return the FLOPs of products in forward and backward for one sample, without what is computed again."""
    return hardware_flops(shape, source, target, KEEP_ALL)


def hardware_flops(shape: EncoderDecoderShape, source: float, target: float, recompute: RecomputeConfig) -> int:
    """Return the FLOPs that are done for one sample: those of training, and what is computed again."""
    blocks = flops_by_block(shape, source, target, recompute)
    embeddings = blocks[0], blocks[shape.encoder.num_layers + 1]
    return sum(block.whole for block in blocks) - sum(block.whole for block in embeddings)


def _embedding(additions: float) -> BlockFlops:
    return BlockFlops(round(additions), 0, round(additions))


def _unread(shape: EncoderDecoderShape, stack: StackShape, tokens: float) -> float:
    """Return what a layer that is computed again leaves out: the MLP's last product, where no norm is behind it."""
    return 0 if shape.post_norm else 2 * tokens * shape.hidden_size * stack.mlp.intermediate_size


def _layer(products: float, core: float, unread: float, recompute: RecomputeConfig, layer: int) -> BlockFlops:
    again = core * ("attention_core" in recompute.operations_of(layer))
    if recompute.is_full(layer):
        again = core + products - unread
    return BlockFlops(round(products + core), round(products + 2 * core + again), round(products))
