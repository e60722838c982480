"""What one micro-batch carries through the model."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from torch import Tensor

from megalm.kv_cache import KeyValueCache

IGNORED = -100
"""The label of a token, or of a sample, that is not learned."""


class _Tensors:
    """A dataclass of tensors, each with the samples along its first dim."""

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the same with each tensor replaced, those of nested ones too."""
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = function(value)
            elif isinstance(value, _Tensors):
                changed[field.name] = value.mapped(function)
        return replace(self, **changed)  # type: ignore[type-var]


@dataclass(frozen=True)
class Source(_Tensors):
    """What an encoder reads for a decoder, whose own tokens are those of the micro-batch.

    Args:
        tokens_bs: int64 [b, s of the source].
        positions_bs: int64 [b, s of the source].
        rows_bs: int64 [b, s of the source], as in a micro-batch.
        documents_bs: int32 [b, s of the source]; -1 for padding.
    """

    tokens_bs: Tensor
    positions_bs: Tensor
    rows_bs: Tensor
    documents_bs: Tensor | None = None


@dataclass(frozen=True)
class MicroBatch(_Tensors):
    """Samples that pass the model together.

    Args:
        tokens_bs: int64 [b, s], what the model reads.
        labels_bs: int64 [b, s], what it should say at each place; ``IGNORED`` where nothing is learned.
        positions_bs: int64 [b, s], the place of each token in its sequence.
        rows_bs: int64 [b, s], a number that no other token of the run has: (sample number) x s + place; it names the
            token to random draws.
        loss_scale: 1 / (valid tokens of the whole global batch), so that losses and gradients only need summing;
            0 when the batch has none. An objective gives the weight of the tokens' loss, which is divided so.
        documents_bs: int32 [b, s], the document of each token, when attention must not cross documents; -1 for padding.
        segments_bs: int64 [b, s], to which part of its sample each token belongs, where the model is told.
        classes_b: int64 [b], what the model should say of each whole sample, where it is asked; ``IGNORED`` as above.
        class_loss_scale: as ``loss_scale``, of ``classes_b``.
        judged_bs: bool [b, s], the tokens of which the model says whether they were replaced, where it is asked.
        judged_loss_scale: as ``loss_scale``, of ``judged_bs``.
        source: what the encoder reads, of a model that has one.
        cache: what attention keeps of the tokens before these, where text is generated.
        task: the name of the task that the samples are of, where a run has several.
    """

    tokens_bs: Tensor
    labels_bs: Tensor
    positions_bs: Tensor
    rows_bs: Tensor
    loss_scale: float
    documents_bs: Tensor | None = None
    segments_bs: Tensor | None = None
    classes_b: Tensor | None = None
    class_loss_scale: float = 0.0
    judged_bs: Tensor | None = None
    judged_loss_scale: float = 0.0
    source: Source | None = None
    cache: KeyValueCache | None = None
    task: str | None = None

    @property
    def reads_source(self) -> bool:
        """Whether an encoder has its source to read: not where what a decoder needs of it is kept already."""
        return self.source is not None and (self.cache is None or self.cache.is_new)

    @property
    def num_tokens(self) -> int:
        """b x s, padding included."""
        return self.tokens_bs.numel()

    @property
    def asked_bs(self) -> Tensor:
        """Bool [b, s], the places that have a label."""
        return self.labels_bs != IGNORED

    @property
    def shape(self) -> Hashable:
        """What the shapes of all that flows between layers depend on."""
        source = None if self.source is None else (tuple(self.source.tokens_bs.shape), self.source.documents_bs is None)
        rows = tuple(self.tokens_bs.shape), self.documents_bs is None
        return rows, source, self.reads_source, self.task is None

    def scaled(
        self, factor: float, class_factor: float | None = None, judged_factor: float | None = None
    ) -> "MicroBatch":
        """Return the same with its losses multiplied: that of the tokens, and by as much the others.

        Args:
            factor: of the tokens' loss.
            class_factor: of the samples' loss, where it is another one.
            judged_factor: of the loss of what was judged, where it is another one.
        """
        return replace(
            self,
            loss_scale=self.loss_scale * factor,
            class_loss_scale=self.class_loss_scale * (factor if class_factor is None else class_factor),
            judged_loss_scale=self.judged_loss_scale * (factor if judged_factor is None else judged_factor),
        )

    @property
    def learns(self) -> bool:
        """Whether anything is learned of the global batch that this is part of."""
        return bool(self.loss_scale or self.class_loss_scale or self.judged_loss_scale)
