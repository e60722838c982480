"""The ``pipeline`` section of the run file."""

from typing import Annotated, Literal

from pydantic import Field

from megalm.section import Section


class PipelineConfig(Section):
    """In which order the stages work on the micro-batches."""

    schedule: str = Field(
        "1f1b",
        min_length=1,
        description="gpipe | 1f1b | interleaved | zb-h1 | zb-h2 | zb-v | dualpipe-v, a FILE.csv, or "
        "package.module:name: trades idle time against the micro-batches in flight, never the result.",
    )
    stages_per_rank: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto",
        description="Spans of layers that each rank holds. More of them shorten the idle time and send more often; "
        "auto takes what the schedule needs.",
    )
    blocks_per_stage: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | Literal["auto"] = Field(
        "auto",
        description="How many blocks (the embedding, each layer, the head) each stage holds, in order, as [3, 2, 1]; "
        "auto balances what they compute. An unbalanced pipeline waits for its slowest stage; the result is the same.",
    )
