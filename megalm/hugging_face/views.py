"""One of our parameters inside of a tensor of Hugging Face's that is in memory."""

from torch import Tensor

from megalm.boxes import Box
from megalm.checkpoint.piece import Part, Piece
from megalm.hugging_face.region import Region


def view_in(whole: Tensor, region: Region, shape: tuple[int, ...]) -> Piece:
    """Return one of our parameters as views of the tensor that holds it.

    Args:
        whole: Hugging Face's tensor.
        region: where the parameter lies in it.
        shape: of the parameter.
    """
    parts: list[Part] = []
    for there, here in region.places(Box((0,) * len(shape), shape)):
        view = whole[there]
        parts.append((tuple(part.start for part in here), view.t() if region.transposed else view))
    return Piece(shape, whole.dtype, tuple(parts))
