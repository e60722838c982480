"""The base of every section of the run file."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One frozen section of the run file: unknown keys and wrong types are refused, never coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())
