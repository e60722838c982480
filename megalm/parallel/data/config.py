"""The ``zero`` section of the run file."""

from typing import Literal

from pydantic import Field

from megalm.section import Section


class ZeroConfig(Section):
    """What the data-parallel ranks hold in parts, instead of a full copy each."""

    stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="0: every rank holds everything; 1: optimizer state in parts; 2: gradients too; 3: parameters too. "
        "Less memory a rank for more bytes sent; the result is the same.",
    )
    backend: Literal["native", "fsdp2", "deepspeed", "fairscale"] = Field(
        "native", description="Which engine does it; native composes with every other feature."
    )
