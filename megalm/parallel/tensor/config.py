"""The ``tensor`` section of the run file."""

from pydantic import Field

from megalm.section import Section


class TensorConfig(Section):
    """How the tensor-parallel ranks share work that no weight matrix splits."""

    sequence_parallel: bool = Field(
        False,
        description="Between the split matrices each tensor-parallel rank keeps only its share of the tokens, so "
        "norms, dropout and what is kept for backward shrink by tp, for the same bytes sent. No effect with tp=1.",
    )
    across_nodes: bool = Field(
        False,
        description="Let the ranks of a tensor-parallel group lie on several machines. They exchange activations in "
        "every layer, which a network between machines makes slow, so such a layout is refused unless this is true. "
        "No effect with tp=1.",
    )
