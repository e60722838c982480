"""The ``run`` and ``train`` sections of the run file."""

from typing import Literal

from pydantic import Field

from megalm.section import Section

THIRTY_DAYS_S = 30 * 24 * 3600


class RunSection(Section):
    """Where a run lives, what it starts from, and how it is watched."""

    dir: str = Field(
        "runs/run",
        min_length=1,
        description="The run's directory: checkpoints, metrics.jsonl, report.html. The same directory goes on with the "
        "same run. Left out of a run file NAME.yaml, it is runs/NAME.",
    )
    seed: int = Field(
        1234,
        ge=0,
        description="Decides the initial weights, the order of the data and dropout; no layout changes them.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="auto uses CUDA only if there is a GPU for each rank of a machine, else the CPU, and says so.",
    )
    timeout: int = Field(
        600,
        ge=1,
        le=THIRTY_DAYS_S,
        description="Seconds that a rank waits in one collective before the run ends with an error. Too short ends "
        "runs whose ranks are merely slow to start or to save; too long leaves a hang unseen.",
    )
    trace: bool = Field(
        False,
        description="true records what each rank does when, one line a step in trace/, for the report's timeline and "
        "trace.json; costs some speed. A resume begins the record anew.",
    )
    record_samples: bool = Field(
        False,
        description="true writes samples.jsonl: for each step the number, corpus, epoch and window of every sample of "
        "the global batch, and a fingerprint of its tokens as the ranks were fed them.",
    )
    stop_signals: list[Literal["SIGTERM", "SIGUSR1", "SIGUSR2"]] = Field(
        ["SIGTERM", "SIGUSR1"],
        description="What asks the run to save after its current step and to end with exit code 75; the same command "
        "then goes on. It is enough that one rank gets it. A signal left out ends the run at once.",
    )
    max_restarts: int = Field(
        0,
        ge=0,
        description="How often in all a run that failed is started again from its last checkpoint; 0 never. A killed, "
        "hung or crashed rank or a full disk may pass; what is refused before the run has trained, and a run that was "
        "asked to end, is not started again.",
    )
    elastic: bool = Field(
        False,
        description="true lets layout.dp follow the ranks that torchrun brings: the largest that they can hold and "
        "that divides train.global_batch_size, at most the one written. The run loses a machine and goes on from its "
        "last checkpoint, and takes one in, with the same samples and the same losses but for rounding.",
    )
    check_replicas: int = Field(
        0, ge=0, description="Every so many steps, compare the replicas of all parameters bit for bit; 0 never."
    )


class TrainConfig(Section):
    """How long a run learns, on how much at once, in which arithmetic."""

    steps: int = Field(200, ge=1, description="Updates in the whole run; a schedule that decays ends there.")
    global_batch_size: int = Field(
        16, ge=1, description="Samples in one update, over all ranks. dp must divide it; no layout changes it."
    )
    micro_batch_size: int = Field(
        4,
        ge=1,
        description="Samples that one rank sends through the model at once. Larger is faster and needs more memory; "
        "the result is the same. The last micro-batch of a rank may be smaller.",
    )
    seq_length: int = Field(256, ge=1, description="Tokens in one sample; attention never looks further back.")
    precision: Literal["fp64", "fp32", "bf16", "fp16", "fp8"] = Field(
        "fp32",
        description="Arithmetic of the model. fp64 is for judging layouts, not for speed. 16 and 8 bits keep master "
        "values and gradient sums in float32; fp8 is bf16 but for the products of the blocks' linear layers.",
    )
    eval_every: int = Field(
        50, ge=0, description="Evaluate on held-out samples every so many steps, and after the last one; 0 never."
    )
    eval_batches: int = Field(
        8,
        ge=1,
        description="Global batches that one evaluation reads, fewer if there are not as many held-out samples.",
    )
    stop_after: int | None = Field(
        None, ge=1, description="End and save after this step of a longer run; the schedules still count train.steps."
    )
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="What to do when the loss or a gradient is not finite: stop ends the run and names the parameter, "
        "skip goes on without that update.",
    )
