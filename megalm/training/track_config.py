"""The ``track`` section of the run file."""

from pydantic import Field

from megalm.section import Section


class TrackConfig(Section):
    """Where a run is shown, beside its own directory."""

    wandb: bool = Field(
        False,
        description="send the metrics to Weights & Biases (needs the extra megalm[wandb]); WANDB_MODE=offline keeps "
        "them in the run directory for a later `wandb sync`",
    )
    tensorboard: bool = Field(
        False, description="write TensorBoard events to RUN_DIR/tensorboard (needs the extra megalm[tensorboard])"
    )
    project: str = Field("megalm", min_length=1, description="the project that the run appears under in wandb")
    name: str | None = Field(None, description="the run's name in wandb; null lets wandb invent one")
    tags: list[str] = Field(default_factory=list, description="words to find the run by in wandb")
