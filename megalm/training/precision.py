"""What ``train.precision`` means for a model: the dtype of its parameters, and what its linear layers multiply."""

import torch
from torch import nn

from megalm.errors import UserError
from megalm.parallel.tensor.eight_bit import EightBitRounding, multiplies_8_bits
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear

DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,
}
"""Of parameters and activations; 8 bits have only what products of linear layers read."""


def choose_rounding(precision: str, model: nn.Module) -> None:
    """Tell the model's linear layers what their products read; embedding and output head stay as they are.

    Args:
        precision: ``train.precision``.
        model: with or without memory.

    Raises:
        UserError: nothing in the model could multiply 8-bit operands.
    """
    if precision != "fp8":
        return
    layers = [module for module in model.modules() if isinstance(module, ColumnParallelLinear | RowParallelLinear)]
    if not layers:
        raise UserError(
            "train.precision=fp8 has no effect: the model has none of the layers of megalm.layers that multiply in 8 "
            "bits, ColumnParallelLinear and RowParallelLinear; use them, or bf16."
        )
    for layer in layers:
        layer.rounding = EightBitRounding()


def told(precision: str, device: torch.device) -> str | None:
    """Return one line on what 8 bits are on this device, ``None`` for other precisions."""
    if precision != "fp8":
        return None
    if multiplies_8_bits(device):
        return "fp8: products of the blocks' linear layers multiply 8-bit operands, all else is bf16"
    return (
        "fp8: this device multiplies no 8-bit operands; they are rounded and multiplied as 16 bits, which gives the "
        "same numbers and takes longer than bf16"
    )
