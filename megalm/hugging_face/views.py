"""One of our parameters inside of a tensor of Hugging Face's that is in memory."""

from torch import Tensor

from megalm.boxes import Box
from megalm.checkpoint.piece import Part, Piece
from megalm.hugging_face.region import Region


def as_ours(found: Tensor, region: Region) -> Tensor:
    """Return a part of one of their tensors in the form of ours, the same memory."""
    if region.one_row:
        return found.squeeze(0)
    return found.t() if region.transposed else found


def view_in(whole: Tensor, region: Region, shape: tuple[int, ...]) -> Piece:
    """Return one of our parameters as views of the tensor that holds it.

    Args:
        whole: Hugging Face's tensor.
        region: where the parameter lies in it.
        shape: of the parameter.
    """
    parts: list[Part] = []
    for there, here in region.places(Box((0,) * len(shape), shape)):
        parts.append((tuple(part.start for part in here), as_ours(whole[there], region)))
    return Piece(shape, whole.dtype, tuple(parts))
