"""A bias of attention by the distance of key and query (Raffel et al. 2020, section 2.1)."""

import math

import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.models.encoder_decoder_shape import RelativeShape
from megalm.parallel.tensor.heads import HeadCut
from megalm.param_spec import Init, ParamSpec, Split
from megalm.parameters import new_parameter


class RelativeBias(nn.Module):
    """A number for each head and group of distances, added to the scores; one table serves all layers of a stack.

    Args:
        shape: its sizes.
        num_heads: of the whole attention; they are cut over the axis.
        axis: the tensor axis.
        causal: whether keys after a query are never seen, so that all groups are of those before it.
    """

    def __init__(self, shape: RelativeShape, num_heads: int, axis: Axis, *, causal: bool) -> None:
        """See the class."""
        super().__init__()
        self.num_buckets, self.max_distance, self.causal = shape.num_buckets, shape.max_distance, causal
        split = Split(axis.name, 1, HeadCut.of(num_heads, num_heads, axis.size).query)
        spec = ParamSpec((shape.num_buckets, num_heads), Init.normal(shape.std), split)
        self.weight = new_parameter(spec, {axis.name: axis.rank})

    def forward(self, num_queries: int, num_before: int = 0) -> Tensor:
        """Return the bias [local heads, queries, keys] of a sequence to itself.

        Args:
            num_queries: how many of its tokens ask.
            num_before: how many come before them, which are keys too.
        """
        places = torch.arange(num_before + num_queries, device=self.weight.device)
        buckets_qk = self.buckets(places.unsqueeze(0) - places[num_before:].unsqueeze(1))
        return nn.functional.embedding(buckets_qk, self.weight).permute(2, 0, 1)

    def buckets(self, distances: Tensor) -> Tensor:
        """Return the group of each distance, int64: how far a key is behind its query.

        Half of a side's groups hold one distance each; the others grow with the logarithm up to the largest distance.
        """
        one_side = self.num_buckets if self.causal else self.num_buckets // 2
        far = (-distances).clamp(min=0) if self.causal else distances.abs()
        behind = torch.zeros_like(distances) if self.causal else (distances > 0) * one_side
        exact = one_side // 2
        growth = (far.float() / exact).log() / math.log(
            self.max_distance / exact
        )  # float32: borders are Hugging Face's
        grouped = exact + (growth * (one_side - exact)).clamp(min=0).long()
        return behind + torch.where(far < exact, far, grouped.clamp(max=one_side - 1))
