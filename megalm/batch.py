"""What one micro-batch carries through the model."""

from dataclasses import dataclass

from torch import Tensor

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples that pass the model together.

    Args:
        tokens_bs: int64 [b, s], what the model reads.
        labels_bs: int64 [b, s], what it should say at each place; ``IGNORED`` where nothing is learned.
        positions_bs: int64 [b, s], the place of each token in its sequence.
        rows_bs: int64 [b, s], a number that no other token of the run has: (sample number) x s + place; it names the
            token to random draws.
        loss_scale: 1 / (valid tokens of the whole global batch), so that losses and gradients only need summing;
            0 when the batch has none.
        documents_bs: int32 [b, s], the document of each token, when attention must not cross documents.
    """

    tokens_bs: Tensor
    labels_bs: Tensor
    positions_bs: Tensor
    rows_bs: Tensor
    loss_scale: float
    documents_bs: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """b x s, padding included."""
        return self.tokens_bs.numel()
