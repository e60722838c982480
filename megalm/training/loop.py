"""A whole run: build or resume, step, evaluate, save, tell."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from megalm.checkpoint.peers import Peers
from megalm.checkpoint.store import Checkpoint, CheckpointStore, open_checkpoint
from megalm.data.loader import TrainingData, ValidationData
from megalm.launcher import device as devices
from megalm.launcher import ranks
from megalm.launcher.placement import Placement, from_environment
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.build import TrainingState, build
from megalm.training.evaluate import evaluate
from megalm.training.feed import Feed, objective_of
from megalm.training.memory_report import MemoryReport
from megalm.training.resume import check_same_run, facts, local_pieces, owned_pieces, restore
from megalm.training.step import StepReport, train_step
from megalm.training.story import Story
from megalm.training.trace import traced


def train(config: RunConfig, placement: Placement | None = None) -> int:
    """Train as the run file says, as one rank of the layout; return the exit code.

    Args:
        config: the run.
        placement: which rank this is; by default what the launcher's variables say, or the only one.

    Raises:
        UserError: something that the user can mend.
        TrainingError: the run cannot go on.
    """
    placement = placement or from_environment(os.environ) or Placement.alone()
    choice = devices.choose(config.run.device, placement.local_world_size)
    ranks.start(placement, choice.type, config.run.timeout, keep_large=config.zero_stage < 2)
    try:
        config.layout.check(placement.world_size)
        mesh = Mesh.build(config.layout, torch.device(choice.type), Ledger(), config.run.timeout)
        train_on(config, mesh, choice.message)
    finally:
        ranks.stop()
    return 0


def train_on(config: RunConfig, mesh: Mesh, message: str) -> None:
    """Train on a mesh that is there already; every rank of it calls this.

    Args:
        config: the run.
        mesh: this rank's axes; its ledger keeps the account of the first step.
        message: one sentence that opens the log.

    Raises:
        UserError: something that the user can mend.
        TrainingError: the run cannot go on.
    """
    story = Story(config, tells=mesh.rank == 0)
    try:
        Peers(mesh.world, config.run.timeout, "the run directory").together(story.open)
        story.say(message)
        for sentence in config.without_effect_on(mesh.device.type):
            story.say(sentence)
        _Run(config, mesh, story).go()
    finally:
        story.end()


class _Run:
    """One rank's way through a run."""

    def __init__(self, config: RunConfig, mesh: Mesh, story: Story) -> None:
        self.config = config
        self.mesh = mesh
        self.last_step = min(config.train.steps, config.train.stop_after or config.train.steps)
        self.story = story
        self.store = CheckpointStore(
            Path(config.run.dir) / "checkpoints",
            world=mesh.world,
            keep=config.checkpoint.keep,
            warn=self.story.say,
            timeout_s=config.run.timeout,
        )

    def go(self) -> None:
        """Run to the last step, whatever was done before."""
        newest = self._newest()
        if newest is not None:
            check_same_run(self.config, newest)
            if newest.step >= self.last_step:
                self.story.say(f"already complete: step {newest.step} of {self.last_step}")
                return
        settings = {
            "seq_length": self.config.train.seq_length,
            "global_batch_size": self.config.train.global_batch_size,
            "vocab_size": self.config.model.vocab_size,
            "seed": self.config.run.seed,
        }
        source = TrainingData(self.config.data, **settings)
        self.held_out = ValidationData(self.config.data, **settings)
        state = build(self.config, self.mesh)
        self._start_from(state, newest)
        self.story.begin(state, resumed=newest is not None)
        feed = Feed(self.config, self.mesh, source, objective_of(self.config))
        run_dir = Path(self.config.run.dir) if self.config.run.trace else None
        engine = state.engine if isinstance(state, TrainingState) else None
        with traced(run_dir, self.mesh, engine) as end_of_step:
            self._steps(state, feed, end_of_step)
        self.store.wait()

    def _newest(self) -> Checkpoint | None:
        resume = self.config.checkpoint.resume
        if resume == "never":
            return None
        return self.store.newest() if resume == "auto" else open_checkpoint(Path(resume), self.mesh.world)

    def _start_from(self, state: Backend, newest: Checkpoint | None) -> None:
        load, weights_only = self.config.checkpoint.load, self.config.checkpoint.weights_only
        if newest is not None:
            restore(state, newest)
            self.story.say(f"resumed from step {newest.step}")
        elif load is not None:
            given = open_checkpoint(Path(load), self.mesh.world)
            if weights_only:
                given.load(local_pieces(state, weights_only=True))
                state.loaded()
            else:
                check_same_run(self.config, given)
                restore(state, given)
            self.story.say(f"loaded {load}" + (" (weights only)" if weights_only else ""))

    def _steps(self, state: Backend, feed: Feed, end_of_step: Callable[[int], None]) -> None:
        assert self.mesh.ledger is not None
        self.mesh.ledger.entries.clear()
        memory = MemoryReport(self.config, state)
        state.model.train()
        while state.step < self.last_step:
            started = time.perf_counter()
            with memory.first_step():
                report = train_step(
                    state,
                    feed.training_step(state.step),
                    skip_non_finite=self.config.train.non_finite == "skip",
                )
            seconds = time.perf_counter() - started
            end_of_step(report.step)
            if self.mesh.ledger.recording:
                self.mesh.ledger.close()
                self.story.communication(self.mesh.ledger)
                self.story.memory(memory.rows())
            self.story.step(report, seconds, self._evaluated(state, report))
            self._save(state)

    def _evaluated(self, state: Backend, report: StepReport) -> float | None:
        every = self.config.train.eval_every
        if not every or (report.step % every and report.step != self.last_step):
            return None
        return evaluate(state, self.config, self.held_out)

    def _save(self, state: Backend) -> None:
        every, stop_after = self.config.checkpoint.every, self.config.train.stop_after
        last = state.step == self.last_step
        if (every and (state.step % every == 0 or last)) or (last and stop_after == state.step):
            self.story.flush()
            self.store.save(
                state.step,
                owned_pieces(state),
                facts(state, self.config),
                asynchronous=self.config.checkpoint.async_ and not last,
            )
