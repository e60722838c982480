"""The objective section of the run file."""

from pydantic import Field

from megalm.section import Section


class ObjectiveConfig(Section):
    """What the model learns from the data."""

    name: str = Field("clm", description="clm: the next token; or package.module:name of your own")
