"""A whole run: build or resume, step, evaluate, save, tell."""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from megalm import collectives
from megalm.checkpoint.peers import Peers
from megalm.checkpoint.store import CheckpointStore, open_checkpoint
from megalm.errors import UserError
from megalm.hugging_face.load import load_weights
from megalm.launcher import ranks
from megalm.launcher.device import num_gpus
from megalm.launcher.exit_codes import PREEMPTED
from megalm.launcher.mpi.meeting import agreed
from megalm.launcher.placement import Placement, from_environment
from megalm.launcher.slurm.environment import end_of_job
from megalm.launcher.torchrun.elastic import Fit, check_placed
from megalm.launcher.torchrun.notes import Notes
from megalm.launcher.torchrun.spare import End, Spares
from megalm.launcher.watchdog import Watchdog, mark
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.build import TrainingState, build
from megalm.training.evaluate import evaluate_tasks
from megalm.training.memory_report import MemoryReport
from megalm.training.replicas import Replicas
from megalm.training.resume import check_same_run, facts, local_pieces, owned_pieces, restore
from megalm.training.samples import samples_of
from megalm.training.step import StepReport, train_step
from megalm.training.stop import Stop
from megalm.training.story import Story
from megalm.training.stragglers import Stragglers
from megalm.training.tasks import TaskFeed, place_of, tasks_of
from megalm.training.trace import traced

if TYPE_CHECKING:
    from megalm.checkpoint.checkpoint import Checkpoint


def train(config: RunConfig, placement: Placement | None = None) -> int:
    """Train as the run file says, as one rank of the layout; return the exit code.

    Args:
        config: the run.
        placement: which rank this is; by default what the launcher's variables say, or the only one.

    Raises:
        UserError: something that the user can mend.
        TrainingError: the run cannot go on.
        SystemExit: one of several ranks under a launcher that is not ours failed, and one of them has told why.
    """
    placement = placement or from_environment(os.environ) or Placement.alone()
    fit = check_placed(config, placement.world_size)
    with agreed(placement, os.environ) as placement:
        return _train(config, fit, placement)


def _train(config: RunConfig, fit: Fit, placement: Placement) -> int:
    deadline = _deadline(config, os.environ) if placement.rank == 0 else None  # it is enough that one rank asks
    notes = Notes.of(os.environ)
    with Stop(config.run.stop_signals, deadline) as stop:
        if notes is not None:
            notes.begin()
            stop.sources.append(notes.asked)
        if placement.rank < fit.config.layout.world_size:
            end = _take_part(fit, replace(placement, world_size=fit.config.layout.world_size), stop)
        else:
            end = Spares(placement, fit.spare, config.run.timeout).wait(stop.reason)
    return end.code if notes is None else notes.code(end.code, end.reason, elastic=config.run.elastic)


def _take_part(fit: Fit, placement: Placement, stop: Stop) -> End:
    """Train as one rank of the layout, and let those that it has no use for end with it."""
    config, spares = fit.config, None
    on_device = config.run.device != "cpu" and num_gpus() > 0
    marker = mark(Path(config.run.dir), placement, config.layout, os.environ, on_device=on_device)
    watchdog = Watchdog(marker, placement, config.run, os.environ)
    with watchdog:
        try:
            choice = ranks.start(
                placement,
                config.run.device,
                config.run.timeout,
                watchdog.patience_s,
                marker,
                together=1 if config.tensor.across_nodes else config.layout.tp,
                keep_large=config.zero_stage < 2,
            )
            if fit.spare and placement.rank == 0:
                spares = Spares(placement, fit.spare, config.run.timeout, hosts=placement.world_size == 1)
                stop.sources.append(spares.asked)
            mesh = Mesh.build(config.layout, torch.device(choice.type), Ledger(), watchdog.patience_s, marker)
            message = "; ".join([choice.message, *([fit.sentence()] if config.run.elastic else [])])
            end = End(train_on(config, mesh, message, stop), stop.ended_by)
            if spares is not None:
                spares.release(end)
            collectives.barrier(mesh.world)  # whoever is behind would not find us
        except BaseException as error:
            watchdog.failed(error)
            raise
        finally:
            ranks.stop()
    marker.remove()
    return end


def _deadline(config: RunConfig, env: Mapping[str, str]) -> float | None:
    """Return the Unix time at which a run saves because its job's time ends; ``None`` where no limit is known."""
    end = end_of_job(env)
    return None if end is None else end - config.checkpoint.before_limit


def train_on(config: RunConfig, mesh: Mesh, message: str, stop: Stop | None = None) -> int:
    """Train on a mesh that is there already; every rank of it calls this.

    Args:
        config: the run.
        mesh: this rank's axes; its ledger keeps the account of the first step.
        message: one sentence that opens the log.
        stop: hears what asks the run to end early; ``None`` hears nothing.

    Returns:
        0, or 75 when the run was asked to end before its last step: then it is saved.

    Raises:
        UserError: something that the user can mend.
        TrainingError: the run cannot go on.
    """
    story = Story(config, tells=mesh.rank == 0)
    try:
        Peers(mesh.world, mesh.timeout_s, "the run directory").together(story.open)
        story.say(message)
        for sentence in config.without_effect_on(mesh.device.type):
            story.say(sentence)
        preempted = _Run(config, mesh, story, stop or Stop([])).go()
        code = PREEMPTED if preempted else 0
        story.conclude(code, None if preempted else "complete")
    except Exception as error:
        story.conclude(2 if isinstance(error, UserError) else 1, str(error) or type(error).__name__)
        raise
    finally:
        story.end()
    return code


class _Run:
    """One rank's way through a run."""

    def __init__(self, config: RunConfig, mesh: Mesh, story: Story, stop: Stop) -> None:
        self.config = config
        self.mesh = mesh
        self.stop = stop
        self.last_step = min(config.train.steps, config.train.stop_after or config.train.steps)
        self.story = story
        self._saved_step: int | None = None
        self.store = CheckpointStore(
            Path(config.run.dir) / "checkpoints",
            world=mesh.world,
            keep=config.checkpoint.keep,
            warn=self.story.say,
            timeout_s=mesh.timeout_s,
            marker=mesh.marker,
        )

    def go(self) -> bool:
        """Run to the last step, whatever was done before; return whether it was asked to end earlier, and did."""
        enter = self.mesh.marker.enter
        enter("looking for a checkpoint")
        newest = self._newest()
        if newest is not None:
            check_same_run(self.config, newest)
            if newest.step >= self.last_step:
                self.story.say(f"already complete: step {newest.step} of {self.last_step}")
                return False
        enter("opening data")
        self.tasks = tasks_of(self.config)
        self.sources = [task.training_data() for task in self.tasks]
        self.held_out = [task.held_out() for task in self.tasks]
        enter("building")
        state = build(self.config, self.mesh)
        every = self.config.run.check_replicas
        self.replicas = Replicas(state, self.config.shard_size) if every and isinstance(state, TrainingState) else None
        enter("loading")
        self._start_from(state, newest)
        self.story.begin(state, resumed=newest is not None)
        feed = TaskFeed(self.tasks, self.sources, self.mesh, self.config.objective.soft_penalty)
        run_dir = Path(self.config.run.dir) if self.config.run.trace else None
        engine = state.engine if isinstance(state, TrainingState) else None
        with traced(run_dir, self.mesh, engine) as end_of_step:
            preempted = self._steps(state, feed, end_of_step)
        enter("last save")
        self.store.wait()
        return preempted

    def _newest(self) -> "Checkpoint | None":
        resume = self.config.checkpoint.resume
        if resume == "never":
            return None
        return self.store.newest() if resume == "auto" else open_checkpoint(Path(resume), self.mesh.world)

    def _start_from(self, state: Backend, newest: "Checkpoint | None") -> None:
        load, weights_only = self.config.checkpoint.load, self.config.checkpoint.weights_only
        if newest is not None:
            restore(state, newest)
            self._saved_step = newest.step
            self.story.say(f"resumed from step {newest.step}")
        elif load is not None:
            given = open_checkpoint(Path(load), self.mesh.world)
            if weights_only:
                given.load(local_pieces(state, weights_only=True), cast=True)
                state.loaded()
            else:
                check_same_run(self.config, given)
                restore(state, given)
            self.story.say(f"loaded {load}" + (" (weights only)" if weights_only else ""))
        elif self.config.model.from_ is not None:
            load_weights(state, self.config)
            self.story.say(f"took the weights of {self.config.model.from_}")

    def _steps(self, state: Backend, feed: TaskFeed, end_of_step: Callable[[int], None]) -> bool:
        """Make steps until the last one, or until the run is asked to end; return whether it was."""
        assert self.mesh.ledger is not None
        self.mesh.ledger.entries.clear()
        memory = MemoryReport(self.config, state)
        state.model.train()
        marker, stragglers = self.mesh.marker, Stragglers(self.mesh)
        marker.seconds()
        while state.step < self.last_step:
            marker.step(state.step + 1)
            marker.enter("between steps")
            reason = self.stop.agreed(self.mesh.world)
            if reason is not None:
                self._tell(stragglers.end())
                self._preempt(state, reason)  # what it says comes last: it is how the run ended
                return True
            started = time.perf_counter()
            marker.enter("reading data")
            with memory.first_step():
                microbatches = feed.training_step(state.step)
                report = train_step(state, microbatches, skip_non_finite=self.config.train.non_finite == "skip")
            seconds = time.perf_counter() - started
            end_of_step(report.step)
            if self.mesh.ledger.recording:
                self.mesh.ledger.close()
                self.story.communication(self.mesh.ledger)
                self.story.memory(memory.rows())
            marker.enter("after the step")
            if self.replicas is not None and report.step % self.config.run.check_replicas == 0:
                self.replicas.check(report.step)
            if self.config.run.record_samples:
                seen = samples_of(microbatches, self.mesh.dp)
                places = [place_of(each[0], self.tasks, self.sources) for each in seen]
                self.story.samples(report.step, list(zip(seen, places, strict=True)))
            named = {task.name: task for task in self.tasks if task.name is not None}
            of_tasks = {f"task/{name}/loss": report.tasks[name] / task.weight for name, task in named.items()}
            if self.config.objective.sharing == "soft":
                of_tasks["penalty"] = report.tasks[None]
            self.story.step(report, seconds, {**of_tasks, **self._evaluated(state, report)})
            self._tell(stragglers.step(report.step))
            self._save_when_due(state)
        self._tell(stragglers.end())
        return False

    def _tell(self, sentence: str | None) -> None:
        if sentence is not None:
            self.story.say(sentence)

    def _evaluated(self, state: Backend, report: StepReport) -> dict[str, float]:
        every = self.config.train.eval_every
        if not every or (report.step % every and report.step != self.last_step):
            return {}
        return evaluate_tasks(state, self.tasks, self.held_out)

    def _preempt(self, state: Backend, reason: str) -> None:
        """Save what is not saved yet, and say why the run ends here."""
        if state.step and state.step != self._saved_step:
            self._save(state, asynchronous=False)
        saved = f"saved after step {state.step} of {self.last_step}" if state.step else "nothing to save yet"
        self.story.say(f"{reason}: {saved}; the same command goes on from there")

    def _save_when_due(self, state: Backend) -> None:
        every, stop_after = self.config.checkpoint.every, self.config.train.stop_after
        last = state.step == self.last_step
        if (every and (state.step % every == 0 or last)) or (last and stop_after == state.step):
            self._save(state, asynchronous=self.config.checkpoint.async_ and not last)

    def _save(self, state: Backend, *, asynchronous: bool) -> None:
        self.mesh.marker.enter("saving")
        self.story.flush()
        self.store.save(state.step, owned_pieces(state), facts(state, self.config), asynchronous=asynchronous)
        self._saved_step = state.step
