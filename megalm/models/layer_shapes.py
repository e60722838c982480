"""What attention and MLPs are made of. No torch."""

from dataclasses import dataclass
from typing import Literal

from megalm.models.attention_pattern import Pattern

Activation = Literal["gelu", "gelu_new", "relu", "silu"]
"""The non-linearity of an MLP, under Hugging Face's names: ``gelu`` is the exact one, ``gelu_new`` its tanh form."""


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of one attention and how its weights are drawn.

    Args:
        hidden_size: length of a row.
        num_heads: of queries.
        num_key_value_heads: of keys and of values, a divisor of the query heads.
        head_dim: features of a head.
        divisor: scores are divided by it before their softmax; the root of ``head_dim`` in most models.
        dropout: of the probabilities.
        qkv_bias: whether the products that make queries, keys and values have biases.
        out_bias: whether the output product has one.
        query_std: standard deviation of the weight that makes queries.
        key_value_std: of those that make keys and values.
        out_std: of the output product's.
        pattern: which keys are seen; ``None`` where all are.
    """

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    divisor: float
    dropout: float
    qkv_bias: bool
    out_bias: bool
    query_std: float
    key_value_std: float
    out_std: float
    pattern: Pattern | None = None


@dataclass(frozen=True)
class MlpShape:
    """The sizes of one MLP and how its weights are drawn.

    Args:
        hidden_size: length of a row.
        intermediate_size: features inside.
        bias: whether the products have biases.
        activation: the non-linearity.
        std: standard deviation of the weights that lead in.
        out_std: of the one that leads out.
        dropout: of the features inside.
    """

    hidden_size: int
    intermediate_size: int
    bias: bool
    activation: Activation
    std: float
    out_std: float
    dropout: float = 0.0
