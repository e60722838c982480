"""The ``checkpoint`` section of the run file."""

from pydantic import Field

from megalm.section import Section


class CheckpointConfig(Section):
    """When a run is saved, how many of its checkpoints stay, and what it starts from."""

    every: int = Field(
        50,
        ge=0,
        description="Save after every so many steps, and after the last one. A run that dies computes at most so many "
        "steps again; 0 never saves.",
    )
    keep: int = Field(
        2,
        ge=1,
        description="Complete checkpoints that stay; older ones are deleted once a new one is complete. With 1 there "
        "is nothing to fall back on when the only one is damaged.",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="auto goes on from the run's newest complete checkpoint, and starts afresh where there is none; "
        "never starts afresh; a path goes on from that checkpoint and drops the later ones of this run.",
    )
    async_: bool = Field(
        True,
        alias="async",
        description="true copies the values and writes them while training goes on, which costs memory for this rank's "
        "share of the checkpoint; false stops training until it is written.",
    )
    before_limit: int = Field(
        120,
        ge=0,
        description="Save and end, with exit code 75, so many seconds before the time of the Slurm job is over; enough "
        "for one step, one evaluation and one save.",
    )
    load: str | None = Field(
        None,
        min_length=1,
        description="A checkpoint of another run, RUN_DIR/checkpoints/step-00000100, that a run starts from when it "
        "has none of its own to go on from.",
    )
    weights_only: bool = Field(
        False,
        description="With load: take the weights and start at step 1 with a fresh optimizer; false takes all of it.",
    )
