"""The parallel layers, for models of your own: each takes the tensor ``Axis``, and is a plain layer over one rank.

Between spans the activations are *rows*, [tokens, features]. A span begins with ``ColumnParallelLinear`` (or several,
by ``column_products``), works on this rank's features, and ends with ``RowParallelLinear``. ``VocabParallelEmbedding``
begins a model, ``VocabParallelHead`` turns its rows into the loss. ``new_parameter`` makes a parameter that says how it
is split. A plain torch module between spans holds its parameters whole on every rank; it must see all rows, so it does
not go with sequence parallelism.
"""

from megalm.batch import IGNORED, MicroBatch
from megalm.parallel.tensor.cross_entropy import VocabParallelHead
from megalm.parallel.tensor.dropout import Dropout
from megalm.parallel.tensor.embedding import VocabParallelEmbedding
from megalm.parallel.tensor.heads import HeadCut
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear, column_products
from megalm.parallel.tensor.norm import LayerNorm, RMSNorm
from megalm.parallel.tensor.region import Region, sum_to_rows
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import new_parameter

__all__ = [
    "IGNORED",
    "ColumnParallelLinear",
    "Dropout",
    "HeadCut",
    "Init",
    "LayerNorm",
    "MicroBatch",
    "ParamSpec",
    "RMSNorm",
    "Region",
    "RowParallelLinear",
    "Split",
    "VocabParallelEmbedding",
    "VocabParallelHead",
    "column_products",
    "even_ranges",
    "new_parameter",
    "sum_to_rows",
]
