"""Parameters and FLOPs of a decoder in closed form. No torch: the planner reads it for models that fit nowhere."""

from dataclasses import dataclass

from megalm.models.decoder_shape import DecoderShape
from megalm.recompute import KEEP_ALL, RecomputeConfig


def linear_parameters_per_layer(shape: DecoderShape) -> int:
    """Return the entries of one block's weight matrices."""
    query = shape.num_heads * shape.head_dim
    key_value = 2 * shape.num_key_value_heads * shape.head_dim
    mlp_matrices = 3 if shape.gated_mlp else 2
    return shape.hidden_size * (2 * query + key_value + mlp_matrices * shape.intermediate_size)


def vector_parameters_per_layer(shape: DecoderShape) -> int:
    """Return the entries of one block's norms and biases."""
    query = shape.num_heads * shape.head_dim
    key_value = 2 * shape.num_key_value_heads * shape.head_dim
    norms = 2 * shape.hidden_size * (1 if shape.rms_norm else 2)
    attention = (query + key_value) * shape.attention_bias + shape.hidden_size * shape.attention_out_bias
    widths = 2 * shape.intermediate_size if shape.gated_mlp else shape.intermediate_size
    mlp = widths + shape.hidden_size if shape.mlp_bias else 0
    return norms + attention + mlp


def num_parameters(shape: DecoderShape) -> int:
    """Return the number of parameters; a tied head counts once."""
    table = shape.vocab_size * shape.hidden_size
    positions = shape.max_positions * shape.hidden_size if shape.learned_positions else 0
    final_norm = shape.hidden_size * (1 if shape.rms_norm else 2)
    blocks = shape.num_layers * (linear_parameters_per_layer(shape) + vector_parameters_per_layer(shape))
    return table * (1 if shape.tied else 2) + positions + blocks + final_norm


def forward_flops_per_token(shape: DecoderShape, seq_length: int) -> int:
    """Return the FLOPs of the forward pass for one token.

    Two for each entry of each weight matrix that multiplies it (the head's among them, the embedding's look-up not),
    and 4 x seq_length x heads x head_dim a layer for attention, counted without the causal half, as in PaLM
    (Chowdhery et al. 2022, appendix B); where a pattern hides keys, those that a query sees stand for seq_length.
    Training takes three times as much.
    """
    matrices = shape.num_layers * linear_parameters_per_layer(shape) + shape.vocab_size * shape.hidden_size
    attention = sum(attention_flops(shape, layer, seq_length) for layer in range(shape.num_layers))
    return 2 * matrices + attention


def attention_flops(shape: DecoderShape, layer: int, seq_length: int) -> int:
    """Return the FLOPs of one layer's attention for one token, beside its weights' products."""
    return 4 * shape.keys_seen(layer, seq_length) * shape.num_heads * shape.head_dim


def training_flops_per_token(shape: DecoderShape, seq_length: int) -> int:
    """Return the FLOPs of forward and backward for one token: three times the forward's."""
    return 3 * forward_flops_per_token(shape, seq_length)


def hardware_flops_per_token(shape: DecoderShape, seq_length: int, recompute: RecomputeConfig) -> int:
    """Return the FLOPs that are done for one token: those of training, and what is computed again."""
    again = sum(recomputed_flops(shape, seq_length, recompute, layer) for layer in range(shape.num_layers))
    return training_flops_per_token(shape, seq_length) + again


def recomputed_flops(shape: DecoderShape, seq_length: int, recompute: RecomputeConfig, layer: int) -> int:
    """Return the FLOPs that one layer computes again for one token.

    A whole layer leaves out the products whose results only its own result needs: the MLP's last, and where attention
    stands beside the MLP its output product too. Norms and non-linearities count nothing, as everywhere here. Sparse
    attention keeps nothing but its inputs in every mode, so its core is computed once more.
    """
    query = shape.num_heads * shape.head_dim
    core = attention_flops(shape, layer, seq_length)
    sparse = core if shape.is_sparse(layer, seq_length) else 0
    if recompute.is_full(layer):
        unread = shape.intermediate_size + (query if shape.parallel_residual else 0)
        return sparse + core + 2 * (linear_parameters_per_layer(shape) - shape.hidden_size * unread)
    return sparse + core if "attention_core" in recompute.operations_of(layer) else sparse


@dataclass(frozen=True)
class BlockFlops:
    """What one token costs in one block.

    Args:
        forward: of the forward pass.
        backward_input: of the input half of the backward, with what is computed again for it.
        backward_weight: of the weight half.
    """

    forward: int
    backward_input: int
    backward_weight: int

    @property
    def whole(self) -> int:
        """Forward and backward; stages are balanced by it."""
        return self.forward + self.backward_input + self.backward_weight


def flops_by_block(shape: DecoderShape, seq_length: int, recompute: RecomputeConfig = KEEP_ALL) -> list[BlockFlops]:
    """Return the FLOPs that are done for one token in each block: embedding, layers, head.

    Attention has no weights, so its backward is all input half. The head makes its gradients in the forward pass, chunk
    by chunk. Of the embedding, whose look-up is no product, the additions are counted.
    """
    products = 2 * linear_parameters_per_layer(shape)
    cores = [attention_flops(shape, layer, seq_length) for layer in range(shape.num_layers)]
    embedding = BlockFlops(shape.hidden_size, 0, shape.hidden_size)
    layers = [
        BlockFlops(
            products + core,
            products + 2 * core + recomputed_flops(shape, seq_length, recompute, layer),
            products,
        )
        for layer, core in enumerate(cores)
    ]
    head = BlockFlops(3 * 2 * shape.vocab_size * shape.hidden_size, 0, 0)
    return [embedding, *layers, head]
