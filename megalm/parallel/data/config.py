"""The ``zero`` section of the run file."""

from typing import Annotated, Literal

from pydantic import Field

from megalm.section import Section


class ZeroConfig(Section):
    """What the data-parallel ranks hold in parts, instead of a full copy each."""

    stage: Literal[0, 1, 2, 3] = Field(
        0,
        description="0: every rank holds everything; 1: optimizer state in parts; 2: gradients too; 3: parameters too. "
        "Less memory a rank for more bytes sent; the result is the same.",
    )
    shard_size: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="How many data-parallel ranks share one set of parts; null: all of them. With the ranks of one "
        "node, gathers stay inside the node and only sums of gradients cross it, for more memory a rank.",
    )
    prefetch: int = Field(
        1,
        ge=0,
        description="Stage 3: how many blocks ahead of the one that computes are gathered. More hides the gathers "
        "better and holds more blocks whole.",
    )
    backend: Literal["native", "fsdp2", "deepspeed", "fairscale"] = Field(
        "native", description="Which engine does it; native composes with every other feature."
    )
    offload: Literal["none", "cpu", "nvme"] = Field(
        "none",
        description="cpu: master copies of the parameters, optimizer state and the update are in the memory of the "
        "host; saves GPU memory for slower steps. native at every stage, deepspeed at 1 to 3. nvme: they are in files "
        "below offload_path; deepspeed at stage 3.",
    )
    offload_path: str | None = Field(
        None,
        description="With offload: nvme, a directory of each node's local disk, of this run alone; what is in it is of "
        "no use when the run has ended.",
    )
