"""How long the source and the target of an encoder-decoder's sample are. No torch: the planner reads it."""

from dataclasses import dataclass

from megalm.objectives.config import SingleObjective


@dataclass(frozen=True)
class SpanSizes:
    """How much of a text is hidden; the same of every text of one length, so that no sample needs padding.

    Args:
        length: tokens of the text.
        hidden: of those, the ones behind sentinels.
        spans: the sentinels.
    """

    length: int
    hidden: int
    spans: int

    @staticmethod
    def of(length: int, density: float, mean_span_length: float) -> "SpanSizes":
        """Hide so much of a text in spans of so many tokens on average, rounded; at least one token, never all.

        Args:
            length: tokens of the text, at least 2.
            density: the share of them that is hidden.
            mean_span_length: tokens to a sentinel.
        """
        hidden = min(max(round(length * density), 1), length - 1)
        spans = min(max(round(hidden / mean_span_length), 1), hidden, length - hidden)
        return SpanSizes(length, hidden, spans)

    @property
    def longest(self) -> int:
        """Tokens of the source or of the target, whichever is longer."""
        return max(self.length - self.hidden, self.hidden) + self.spans


@dataclass(frozen=True)
class PairLengths:
    """Tokens of a sample on average, the one that ends a sequence included.

    Args:
        source: that the encoder reads.
        target: that the decoder says.
    """

    source: float
    target: float

    @staticmethod
    def of(objective: SingleObjective, length: int) -> "PairLengths | None":
        """Return the lengths that an objective makes of texts of ``length`` tokens, ``None`` where only data tell.

        Those of ``spans`` are the same of all samples. Infilling hides spans whose number is drawn, and is taken at
        its mean.
        """
        density, mean = objective.noise_density or 0.0, objective.mean_span_length or 1.0
        if objective.seq2seq == "spans":
            sizes = SpanSizes.of(length, density, mean)
            return PairLengths(length - sizes.hidden + sizes.spans + 1, sizes.hidden + sizes.spans + 1)
        if objective.seq2seq != "denoising":
            return None
        source, noise = float(length), objective.noise or ()
        if "infill" in noise:
            source += density * length / mean - density * length
        if "delete" in noise:
            source *= 1 - density
        return PairLengths(source + 1, length + 1)
