"""The ``recompute`` section of the run file, and what it says of each layer. No torch: the planner reads it."""

from typing import Literal

from pydantic import Field

from megalm.section import Section

Operation = Literal["attention_core", "activation", "norm"]
"""What can be computed again by itself: all between the query, key and value products and the output product; the
non-linearity of the MLP; the norms."""


SMALLEST_OFFLOADED = 2**18
"""Bytes of the smallest tensor that is offloaded: to start a copy takes about as long as to make one of this size."""


class RecomputeConfig(Section):
    """What layers keep from forward to backward, and where; what they do not keep is computed again."""

    mode: Literal["none", "selective", "full"] = Field(
        "none",
        description="none keeps all activations; selective computes attention again, or what operations names; full "
        "keeps only each layer's input, the least memory for up to a third more compute. The result is the same.",
    )
    every: int = Field(
        1,
        ge=1,
        description="recompute only the layers 0, every, 2 x every, ...; the others keep everything, for more memory "
        "and less compute",
    )
    operations: list[Operation] = Field(
        ["attention_core"],
        min_length=1,
        description="with selective, what is computed again; activation and norm save memory at next to no cost",
    )

    offload: Literal["none", "cpu"] = Field(
        "none",
        description="cpu: what each layer keeps is in the memory of the host between its forward and its backward; "
        "saves GPU memory in every mode, for copies beside the compute. The result is the same.",
    )

    def is_full(self, layer: int) -> bool:
        """Whether a layer, counted from 0 over the whole model, keeps only its input."""
        return self.mode == "full" and layer % self.every == 0

    def operations_of(self, layer: int) -> frozenset[Operation]:
        """Return what a layer, counted from 0 over the whole model, computes again by itself."""
        return frozenset(self.operations if self.mode == "selective" and layer % self.every == 0 else ())

    def without_effect(self) -> list[str]:
        """Return one sentence for each setting that is not used."""
        found = []
        if self.mode == "none" and self.every > 1:
            found.append(f"recompute.every={self.every} has no effect: recompute.mode is none.")
        if self.mode != "selective" and "operations" in self.model_fields_set and self.operations != ["attention_core"]:
            found.append(f"recompute.operations has no effect: recompute.mode is {self.mode}.")
        return found


KEEP_ALL = RecomputeConfig()
"""Nothing is computed again."""
