"""Rotations slowed down, so that a model sees farther than it was first trained to. No torch."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from megalm.errors import UserError
from megalm.section import Section


class RopeScaling(Section):
    """How the frequencies of a rotation are changed. Names are Hugging Face's.

    ``linear`` divides all by the factor (Chen et al. 2023, "Extending context window ... via position interpolation").
    ``llama3`` divides the slow ones and leaves the fast ones, with a ramp between them (Grattafiori et al. 2024).
    """

    rope_type: Literal["linear", "llama3"] = Field(description="which frequencies are divided: all, or the slow ones")
    factor: float = Field(gt=0, description="what they are divided by")
    low_freq_factor: float | None = Field(
        None, gt=0, description="llama3: fewer turns than this over the original positions is slow"
    )
    high_freq_factor: float | None = Field(None, gt=0, description="llama3: more turns than this is fast")
    original_max_position_embeddings: int | None = Field(
        None, ge=1, description="llama3: positions that the model was first trained on"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        bounds = (self.low_freq_factor, self.high_freq_factor, self.original_max_position_embeddings)
        if self.rope_type == "llama3" and None in bounds:
            raise UserError(
                "model.rope_scaling of the type llama3 needs low_freq_factor, high_freq_factor and "
                "original_max_position_embeddings; add what is missing."
            )
        if self.rope_type == "llama3" and not bounds[0] < bounds[1]:  # type: ignore[operator]
            raise UserError("model.rope_scaling.low_freq_factor must be below its high_freq_factor; swap them.")
        if self.rope_type == "linear" and bounds != (None, None, None):
            raise UserError("model.rope_scaling of the type linear has a factor only; remove the rest.")
        return self

    def scaled(self, frequency: float) -> float:
        """Return what becomes of a frequency, in radians a position."""
        if self.rope_type == "linear":
            return frequency / self.factor
        slow, fast = self.low_freq_factor or 0.0, self.high_freq_factor or 0.0
        turns = (self.original_max_position_embeddings or 0) * frequency / (2 * math.pi)
        kept = min(max((turns - slow) / (fast - slow), 0.0), 1.0)
        return kept * frequency + (1 - kept) * frequency / self.factor
