"""What a run leaves behind for people: its directory, its lines, its report. One rank tells; the others keep silent."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from megalm.data.order import Place
from megalm.errors import UserError
from megalm.launcher.ending import Ending
from megalm.ledger import Ledger
from megalm.plan.model_costs import model_costs
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.memory import peak_memory_gib
from megalm.training.memory_table import Row, lines, surprises
from megalm.training.metrics import MetricsFile
from megalm.training.mfu import Mfu
from megalm.training.precision import told
from megalm.training.progress import Progress
from megalm.training.report import write_report
from megalm.training.samples import FILE, SamplesFile, Seen
from megalm.training.step import StepReport
from megalm.training.track import Tracker, trackers
from megalm.whole_text import replace_text


class Story:
    """Writes the run directory.

    Args:
        config: the run.
        tells: whether this rank is the one that writes.
    """

    def __init__(self, config: RunConfig, *, tells: bool) -> None:
        """See the class."""
        self.config = config
        self.tells = tells
        self.directory = Path(config.run.dir)
        self.tokens_per_step = config.train.global_batch_size * config.train.seq_length
        self._closing = ExitStack()
        self._trackers: list[Tracker] = []
        self._mfu: Mfu | None = None
        self._samples: SamplesFile | None = None
        self._on_cuda = False
        self._last_said = ""

    def open(self) -> None:
        """Make the run directory and the trackers.

        Raises:
            UserError: one of them cannot be made.
        """
        if not self.tells:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"run.dir={self.config.run.dir} cannot be made ({error.strerror}); choose a directory you may write to."
            ) from error
        Ending.forget(self.directory)
        self._progress = Progress(self.directory / "log.txt")
        self._closing.callback(self._progress.finish)
        self._trackers = trackers(self.config.track)

    def say(self, text: str) -> None:
        """Tell one sentence."""
        if self.tells:
            self._progress.message(text)
            self._last_said = text

    def begin(self, state: Backend, *, resumed: bool) -> None:
        """Open the account at the step that the run goes on from."""
        if not self.tells:
            return
        self._on_cuda = state.mesh.device.type == "cuda"
        replace_text(self.directory / "run.yaml", self.config.to_yaml())
        self._closing.callback(lambda: self.say(f"report: {write_report(self.directory)}"))
        self._metrics = MetricsFile(self.directory / "metrics.jsonl")
        self._closing.callback(self._metrics.close)
        self._metrics.truncate_after(state.step)
        if self.config.run.record_samples:
            self._samples = SamplesFile(self.directory / FILE, state.step)
            self._closing.callback(self._samples.close)
        if (line := told(self.config.train.precision, state.mesh.device)) is not None:
            self.say(line)
        if (known := model_costs(self.config)) is not None:
            self.say(f"model: {self.config.model.family}, {known.num_parameters:,} parameters")
            if known.attention_dropout:
                self.say("attention dropout is drawn by position, so attention takes the slower math path")
            self._mfu = Mfu(
                known.training_flops,
                state.mesh.layout.world_size,
                torch.cuda.get_device_name() if self._on_cuda else "cpu",
                self.config.train.precision,
                known.hardware_flops if known.hardware_flops > known.training_flops else None,
            )
            self.say(self._mfu.explanation())
        for tracker in self._trackers:
            tracker.start(self.config.model_dump(mode="json", by_alias=True), self.directory, resumed)
            self._closing.callback(tracker.finish)
        self._progress.start(state.step + 1, self.config.train.steps)

    def step(self, report: StepReport, seconds: float, found: Mapping[str, float]) -> None:
        """Tell of one step, and of what was found of its tasks and on held-out samples."""
        if not self.tells:
            return
        tokens_per_s = self.tokens_per_step / seconds
        row: dict[str, float | int | None] = {
            "step": report.step,
            "loss": report.loss,
            "grad_norm": report.grad_norm,
            "lr": report.lr,
            "tokens": report.step * self.tokens_per_step,
            "tokens_per_s": tokens_per_s,
            "step_time_s": seconds,
            "memory_gib": peak_memory_gib(torch.cuda.max_memory_allocated() if self._on_cuda else None),
            "mfu": self._mfu.at(tokens_per_s) if self._mfu else None,
        }
        row.update({f"loss_{name}": mean for name, mean in report.losses.items()})
        row.update(found)
        self._metrics.write(row)
        self._progress.step(row)
        for tracker in self._trackers:
            tracker.log(row)

    def samples(self, step: int, samples: Sequence[tuple[Seen, Place]]) -> None:
        """Keep which samples a step saw."""
        if self._samples is not None:
            self._samples.write(step, samples)

    def communication(self, ledger: Ledger) -> None:
        """Keep the account of one step's collectives, as this rank made them."""
        if self.tells:
            replace_text(self.directory / "communication.json", json.dumps(ledger.rows(), indent=1) + "\n")

    def memory(self, rows: Sequence[Row]) -> None:
        """Keep and tell what every rank's memory goes to, and where it was planned otherwise."""
        if self.tells:
            replace_text(self.directory / "memory.json", json.dumps(rows, indent=1) + "\n")
            for line in (*lines(rows), *surprises(rows)):
                self.say(line)

    def flush(self) -> None:
        """Return when every row is on the disk."""
        if self.tells:
            self._metrics.flush()
            if self._samples is not None:
                self._samples.flush()

    def conclude(self, code: int, why: str | None = None) -> None:
        """Leave word how the run ended, for those who see no exit code.

        Args:
            code: its exit code.
            why: what ended it; by default what was said last.
        """
        if self.tells:
            Ending(code, why or self._last_said).write(self.directory)

    def end(self) -> None:
        """Close the account and write the report, however the run ends and whatever of it fails."""
        self._closing.close()
