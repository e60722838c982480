"""Linear layers cut over the tensor axis: by columns into a span, by rows out of it (Shoeybi et al. 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.parallel.tensor.gradient import add_product, add_row_sums
from megalm.parallel.tensor.product import (
    Operand,
    Rounding,
    Unrounded,
    add_product_to,
    product,
    tensors_of,
    wide_product,
)
from megalm.parallel.tensor.region import Region
from megalm.param_spec import Init, ParamSpec, Split, even_ranges
from megalm.parameters import new_parameter
from megalm.weight_half import put_off

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class WeightProducts:
    """The products that make the gradients of weights which have read the same rows; made now, or put off.

    Args:
        rows: what the layers have read, without the graph, which would keep the block's input and its gradient alive:
            this rank's share where the region cuts rows, which are made whole again.
        region: of the layers; ``None`` when the rows are whole already.
        learned: each weight with the gradient of its layer's output, as products read it.
        rounding: how they read the rows.
    """

    rows: Tensor
    region: Region | None
    learned: Sequence[tuple[Tensor, Operand]]
    rounding: Rounding

    @property
    def holds(self) -> list[Tensor]:
        """What is kept until they are made."""
        return [self.rows, *(tensor for _, gradient in self.learned for tensor in tensors_of(gradient))]

    def __call__(self) -> dict[Tensor, Tensor | None]:
        """Make them; what stands outside an engine is returned by weight."""
        read = self.rounding.operand(self.rows if self.region is None else self.region.whole_rows(self.rows))
        return {weight: add_product(weight, gradient, read) for weight, gradient in self.learned}


class _ColumnProducts(torch.autograd.Function):
    """Several products of the same rows; the gradient's collective runs while the weight gradients are made."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        region: Region,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        rounding: Rounding,
        keep_whole: bool,
        *_: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.region, ctx.weights, ctx.biases, ctx.rounding = region, weights, biases, rounding
        whole = region.whole_rows(x)
        ctx.save_for_backward(x, whole if keep_whole and region.rows_are_cut else None)
        read = rounding.operand(whole)
        return tuple(
            product(read, rounding.operand(weight).t(), bias) for weight, bias in zip(weights, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        region: Region = ctx.region
        rounding: Rounding = ctx.rounding
        x, whole = ctx.saved_tensors
        read = [rounding.gradient(gradient) for gradient in gradients]
        learned = [
            (weight, gradient) for weight, gradient in zip(ctx.weights, read, strict=True) if weight.requires_grad
        ]
        later = bool(learned) and put_off(ctx.weights, WeightProducts(x.detach(), region, learned, rounding))
        dx, summing, gathering = None, None, None
        if whole is None:
            whole, gathering = region.whole_rows_async(x) if learned and not later else (x, None)
        if ctx.needs_input_grad[0]:
            wide = wide_product(read[0], rounding.operand(ctx.weights[0]))
            for gradient, weight in zip(read[1:], ctx.weights[1:], strict=True):
                add_product_to(wide, gradient, rounding.operand(weight))
            dx, summing = region.sum_to_rows_async(wide.to(x.dtype))
        if gathering is not None:
            gathering.wait()
        made = WeightProducts(whole, None, learned, rounding)() if learned and not later else {}
        weight_gradients = [made.get(weight) for weight in ctx.weights]
        bias_gradients = [
            add_row_sums(bias, gradient) if bias is not None and bias.requires_grad else None
            for bias, gradient in zip(ctx.biases, gradients, strict=True)
        ]
        if summing is not None:
            summing.wait()
        return dx, None, None, None, None, None, *weight_gradients, *bias_gradients


class _RowProduct(torch.autograd.Function):
    """One product whose partial sums are added over the axis; the bias joins after the sum, once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, region: Region, weight: Tensor, bias: Tensor | None, rounding: Rounding, read: bool
    ) -> Tensor:
        ctx.region, ctx.weight, ctx.bias, ctx.rounding, ctx.num_rows = region, weight, bias, rounding, x.shape[0]
        ctx.save_for_backward(x)
        if not read:
            return x.new_zeros(()).expand(region.num_local_rows(x.shape[0]), weight.shape[0])
        operands = rounding.operand(x), rounding.operand(weight).t()
        if region.axis.size == 1 and bias is not None:
            return product(*operands, bias)
        rows = region.sum_to_rows(product(*operands))
        return rows if bias is None else rows.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        region: Region = ctx.region
        rounding: Rounding = ctx.rounding
        (x,) = ctx.saved_tensors
        bias_gradient = None
        if ctx.bias is not None and ctx.bias.requires_grad:
            bias_gradient = add_row_sums(ctx.bias, gradients[0])
        gradient = rounding.gradient(region.whole_rows(gradients[0])[: ctx.num_rows])
        dx = product(gradient, rounding.operand(ctx.weight)) if ctx.needs_input_grad[0] else None
        weight_gradient = None
        if ctx.weight.requires_grad:
            work = WeightProducts(x.detach(), None, [(ctx.weight, gradient)], rounding)
            weight_gradient = None if put_off([ctx.weight], work) else work()[ctx.weight]
        return dx, None, weight_gradient, bias_gradient, None, None


def column_products(
    x: Tensor, layers: "Sequence[ColumnParallelLinear]", *, keep_whole: bool = False
) -> tuple[Tensor, ...]:
    """Apply several column-parallel layers to the same rows: one border and one collective for all of them.

    Args:
        x: rows [n, in].
        layers: of one region and one rounding.
        keep_whole: keep the rows whole for the weight gradients instead of gathering them again in the backward; right
            where the backward follows at once, as after a block is computed again.

    Returns:
        Each layer's local outputs [whole rows, local out].
    """
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers]
    learned = [parameter for parameter in (*weights, *biases) if parameter is not None]
    products: tuple[Tensor, ...] = _ColumnProducts.apply(  # type: ignore[no-untyped-call]
        x, layers[0].region, weights, biases, layers[0].rounding, keep_whole, *learned
    )
    return products


class ColumnParallelLinear(nn.Module):
    """A linear layer cut over its outputs.

    Args:
        in_features: hidden size.
        out_features: whole number of outputs.
        axis: the tensor axis; ``Axis.alone()`` makes a single-device layer.
        bias: whether there is one.
        std: standard deviation of the weight.
        ranges: the outputs that each rank holds; as even as possible by default.
        sequence_parallel: whether the rows are cut over the axis between blocks.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        axis: Axis,
        *,
        bias: bool = True,
        std: float = 0.02,
        ranges: Ranges | None = None,
        sequence_parallel: bool = False,
    ) -> None:
        """See the class."""
        super().__init__()
        self.region = Region(axis, sequence_parallel)
        self.rounding: Rounding = Unrounded()
        positions = {axis.name: axis.rank}
        split = Split(axis.name, 0, ranges or even_ranges(out_features, axis.size))
        self.weight = new_parameter(ParamSpec((out_features, in_features), Init.normal(std), split), positions)
        self.bias: nn.Parameter | None = None
        if bias:
            spec = ParamSpec((out_features,), Init.constant(0.0), split, decay=False)
            self.bias = new_parameter(spec, positions)

    def forward(self, x: Tensor) -> Tensor:
        """Return for rows ``x`` [n, in] the local outputs [whole rows, local out]."""
        return column_products(x, [self])[0]


class ReplicatedLinear(nn.Module):
    """A linear layer that every rank of the tensor axis holds whole, and applies to the same rows, or to its own.

    Args:
        in_features: of a row.
        out_features: of a row.
        std: standard deviation of the weight.
        bias: whether there is one.
        partial_over: the axes whose ranks apply it to rows of their own.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        std: float = 0.02,
        bias: bool = True,
        partial_over: tuple[str, ...] = (),
    ) -> None:
        """See the class."""
        super().__init__()
        spec = ParamSpec((out_features, in_features), Init.normal(std), partial_over=partial_over)
        self.weight = new_parameter(spec, {})
        self.bias: nn.Parameter | None = None
        if bias:
            spec = ParamSpec((out_features,), Init.constant(0.0), partial_over=partial_over, decay=False)
            self.bias = new_parameter(spec, {})

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [n, in] to rows [n, out]."""
        rows: Tensor = _RowProduct.apply(  # type: ignore[no-untyped-call]
            x, Region(Axis.alone()), self.weight, self.bias, Unrounded(), True
        )
        return rows


class RowParallelLinear(nn.Module):
    """A linear layer cut over its inputs; it ends a span.

    Args:
        in_features: whole number of inputs.
        out_features: hidden size.
        axis: the tensor axis.
        bias: whether there is one; it is whole on every rank.
        std: standard deviation of the weight.
        ranges: the inputs that each rank holds; as even as possible by default.
        sequence_parallel: whether the rows are cut over the axis between blocks.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        axis: Axis,
        *,
        bias: bool = True,
        std: float = 0.02,
        ranges: Ranges | None = None,
        sequence_parallel: bool = False,
    ) -> None:
        """See the class."""
        super().__init__()
        self.region = Region(axis, sequence_parallel)
        self.rounding: Rounding = Unrounded()
        positions = {axis.name: axis.rank}
        split = Split(axis.name, 1, ranges or even_ranges(in_features, axis.size))
        self.weight = new_parameter(ParamSpec((out_features, in_features), Init.normal(std), split), positions)
        self.bias: nn.Parameter | None = None
        if bias:
            partial_over = self.region.partial_over
            spec = ParamSpec((out_features,), Init.constant(0.0), partial_over=partial_over, decay=False)
            self.bias = new_parameter(spec, positions)

    def forward(self, x: Tensor, *, read: bool = True) -> Tensor:
        """Return for local inputs ``x`` [whole rows, local in] the rows [n, out].

        Args:
            x: the inputs.
            read: whether anybody reads the result. At the end of a block that is computed again nobody does: the
                backward needs what the layer has read, and neither its product nor the sum over the axis.
        """
        rows: Tensor = _RowProduct.apply(  # type: ignore[no-untyped-call]
            x, self.region, self.weight, self.bias, self.rounding, read
        )
        return rows
