"""The ``recompute`` section of the run file."""

from typing import Literal

from pydantic import Field

from megalm.section import Section


class RecomputeConfig(Section):
    """What is computed again in backward instead of being kept from forward."""

    mode: Literal["none", "selective", "full"] = Field(
        "none",
        description="none keeps all activations; selective computes attention again; full keeps only each block's "
        "input, the least memory for about a third more compute. The result is the same.",
    )
