"""The run file as one frozen value: every section, checked alone and against one another."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from megalm import overrides as dotted
from megalm import run_file
from megalm.checkpoint.config import CheckpointConfig
from megalm.data.config import DataConfig
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.models.attention_pattern import hiding
from megalm.models.config import ModelConfig
from megalm.models.decoder_shape import DECODERS
from megalm.models.electra_shape import ELECTRA, ElectraShape
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS
from megalm.models.encoder_shape import ENCODERS
from megalm.not_built import refuse_what_is_not_built
from megalm.objectives.config import ObjectiveConfig, TaskConfig
from megalm.optim.config import OptimizerConfig
from megalm.optim.lr_schedule import LrScheduleConfig
from megalm.parallel.data.config import ZeroConfig
from megalm.parallel.data.limits import check_backend
from megalm.parallel.pipeline.config import PipelineConfig
from megalm.parallel.pipeline.partition import partition
from megalm.parallel.pipeline.schedule import stages_per_rank
from megalm.parallel.tensor.config import TensorConfig
from megalm.recompute import RecomputeConfig
from megalm.section import Section
from megalm.training.config import RunSection, TrainConfig
from megalm.training.track_config import TrackConfig
from megalm.validation import validate


class RunConfig(Section):
    """A run: what is trained, on what, over which ranks. Only ``model``, ``data`` and ``train`` are required."""

    format: Literal[1] = Field(1, description="The version of the run file's keys.")
    run: RunSection = Field(default_factory=RunSection)
    model: ModelConfig
    layout: Layout = Field(default_factory=Layout)
    tensor: TensorConfig = Field(default_factory=TensorConfig)
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    zero: ZeroConfig = Field(default_factory=ZeroConfig)
    recompute: RecomputeConfig = Field(default_factory=RecomputeConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    lr_schedule: LrScheduleConfig = Field(default_factory=LrScheduleConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    track: TrackConfig = Field(default_factory=TrackConfig)

    @staticmethod
    def load(path: str | PathLike[str], overrides: Sequence[str] = ()) -> "RunConfig":
        """Return the run that a run file describes.

        Args:
            path: the run file, YAML 1.2; a section left empty takes its defaults.
            overrides: ``key.sub=value``, applied in order; values are YAML.

        Raises:
            UserError: what is wrong and where, in one sentence.
        """
        tree = run_file.read(path)
        dotted.apply(tree, overrides)
        tree = {name: section for name, section in tree.items() if section is not None}
        run = tree.setdefault("run", {})
        if isinstance(run, dict) and "dir" not in run:
            tree["run"] = {**run, "dir": f"runs/{Path(path).stem}"}
        return validate(RunConfig, tree)

    @property
    def num_microbatches(self) -> int:
        """The micro-batches of one data rank's step; the last may be smaller, of several tasks the last of each."""
        together = self.layout.dp * self.train.micro_batch_size
        samples = [task.samples for task in self.objective.tasks or []] or [self.train.global_batch_size]
        return sum(-(-each // together) for each in samples) + (self.objective.sharing == "soft")

    @property
    def sources(self) -> list[DataConfig]:
        """What the run learns from: its data, or that of each of its tasks."""
        return [self.data] if self.objective.tasks is None else [task.data for task in self.objective.tasks]

    @property
    def corpora(self) -> list[Path]:
        """Where all that the run trains on lies: prepared directories, and prefixes of files."""
        return [Path(corpus.path) for data in self.sources for corpus in data.train]

    def tokenizer_path(self) -> Path | None:
        """Return the tokenizer of the run's data, which is that of all of its tasks, if it is known."""
        return next((path for data in self.sources if (path := data.tokenizer_path()) is not None), None)

    def of_task(self, task: TaskConfig) -> "RunConfig":
        """Return the run as it would be if one of its tasks were all of it."""
        sections = {
            "objective": ObjectiveConfig.model_validate(task.objective.model_dump(exclude_none=True)),
            "data": task.data,
            "model": self.model.model_copy(update={"num_labels": task.num_labels}),
            "train": self.train.model_copy(update={"global_batch_size": task.samples}),
        }
        return self.model_copy(update=sections)

    def to_yaml(self) -> str:
        """Return the resolved run file: every default stands in it, keys that are not set are left out."""
        return run_file.write(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse sections that do not fit one another, and what is not built yet."""
        refuse_what_is_not_built(self)
        layout, model, train = self.layout, self.model, self.train
        layout.check(layout.world_size)
        if train.global_batch_size % layout.dp:
            raise UserError(
                f"layout.dp={layout.dp} does not divide train.global_batch_size={train.global_batch_size}; choose a "
                "divisor, so that every replica has as many samples."
            )
        data_size = layout.dp * layout.cp
        if self.zero.shard_size is not None and data_size % self.zero.shard_size:
            raise UserError(
                f"zero.shard_size={self.zero.shard_size} does not divide the {data_size} data-parallel ranks; choose a "
                "divisor, or null for all of them."
            )
        if self.model.from_ is not None and self.checkpoint.load is not None:
            raise UserError("model.from and checkpoint.load both say what the run starts from; leave one of them out.")
        self._check_backend()
        if self.objective.tasks is None:
            self.data.check("data")
            self._check_objective()
        else:
            self._check_tasks(self.objective.tasks)
        num_stages = layout.pp * stages_per_rank(self.pipeline.schedule, self.pipeline.stages_per_rank)
        if ":" in model.family:  # a model of the user's own reads its sizes as it likes
            return self
        sizes = self.pipeline.blocks_per_stage
        partition([1.0] * model.num_blocks, num_stages, None if sizes == "auto" else sizes)
        if model.longest_sequence is not None and train.seq_length > model.longest_sequence:
            unused = f" less the {model.first_position} rows before a first token's" if model.first_position else ""
            raise UserError(
                f"train.seq_length={train.seq_length} is longer than the model.max_position_embeddings="
                f"{model.max_position_embeddings}{unused}; shorten the sequences or give the model more positions."
            )
        if model.family == ELECTRA and layout.tp > (heads := ElectraShape.of(model).generator.num_heads):
            raise UserError(
                f"layout.tp={layout.tp} is more than the generator's {heads} attention heads, which are model."
                f"generator_size={model.generator_size} of {model.num_attention_heads}; a rank needs at least one head."
            )
        if layout.tp > model.num_attention_heads:
            raise UserError(
                f"layout.tp={layout.tp} is more than model.num_attention_heads={model.num_attention_heads}; a rank "
                "needs at least one head."
            )
        return self

    def _check_tasks(self, tasks: Sequence[TaskConfig]) -> None:
        """Refuse tasks that do not go together, or that the model cannot learn."""
        if self.data != DataConfig():
            raise UserError("data has no effect with objective.name=multitask, whose tasks have their own; remove it.")
        if self.model.num_labels is not None:
            raise UserError(
                "model.num_labels has no effect with objective.name=multitask; say it of the tasks that classify, as "
                "objective.tasks.0.num_labels."
            )
        if ":" in self.model.family and self.objective.sharing == "soft":
            raise UserError(
                f"objective.sharing=soft does not work with model.family={self.model.family}: a model for each task is "
                "built of megalm's own families; use one of them, or hard sharing."
            )
        if self.model.from_ is not None and (self.objective.num_labels or self.objective.sharing == "soft"):
            raise UserError(
                "model.from has no weights for the heads and models of tasks; leave it out, or learn only tasks that "
                "have no num_labels, with objective.sharing=hard."
            )
        asked = sum(task.samples for task in tasks)
        if asked != self.train.global_batch_size:
            raise UserError(
                f"objective.tasks ask for {' + '.join(str(task.samples) for task in tasks)} = {asked} samples, and "
                f"train.global_batch_size={self.train.global_batch_size}; change one of them."
            )
        for number, task in enumerate(tasks):
            key = f"objective.tasks.{number}"
            task.data.check(f"{key}.data")
            if task.samples % self.layout.dp:
                raise UserError(
                    f"layout.dp={self.layout.dp} does not divide {key}.samples={task.samples}; choose a divisor, so "
                    "that every replica has as many samples of the task."
                )
            classifies = task.objective.name == "classify"
            if ":" not in task.objective.name and classifies == (task.num_labels is None):
                raise UserError(
                    f"{key}.num_labels={task.num_labels or 'null'} does not go with {key}.objective.name="
                    f"{task.objective.name}: classify tells classes apart, and no other objective does."
                )
            if task.num_labels is not None and ":" in self.model.family:
                raise UserError(
                    f"{key}.num_labels={task.num_labels} asks for a head of the task's own, of which the builder "
                    f"model.family={self.model.family} is not told; use a family of megalm's, or leave the task out."
                )
            try:
                self.of_task(task)._check_objective()
            except UserError as error:
                raise UserError(f"task {task.name}: {error}") from error

    def _check_objective(self) -> None:
        """Refuse an objective that the model cannot learn."""
        family, objective = self.model.family, self.objective
        if ":" in family or ":" in objective.name:
            return
        if (family == ELECTRA) != (objective.name == "rtd"):
            raise UserError(
                f"objective.name={objective.name} is not for model.family={family}: rtd is what the generator and the "
                f"discriminator of {ELECTRA} learn, and no other family does."
            )
        if (family in ENCODER_DECODERS) != (objective.name == "seq2seq"):
            raise UserError(
                f"objective.name={objective.name} is not for model.family={family}: seq2seq is what an encoder-decoder "
                f"learns ({', '.join(sorted(ENCODER_DECODERS))}), and no other family does."
            )
        if (self.model.num_labels is None) == (objective.name == "classify"):
            raise UserError(
                f"objective.name={objective.name} does not go with model.num_labels={self.model.num_labels or 'null'}: "
                "a head for whole samples is what classify learns, and no other objective does."
            )
        if family in ENCODERS and objective.name in ("clm", "instruct"):
            raise UserError(
                f"objective.name={objective.name} asks for tokens that model.family={family}, which reads to both "
                "sides, would see; use mlm_nsp."
            )
        if objective.name != "mlm_nsp":
            return
        if family not in ENCODERS:
            raise UserError(
                f"objective.name=mlm_nsp needs a model that reads to both sides, and model.family={family} does not; "
                f"use one of {', '.join(sorted(ENCODERS))}."
            )
        if not objective.nsp:
            return
        if family == "roberta":
            raise UserError("objective.nsp=true has no head in model.family=roberta; set objective.nsp=false.")
        if self.model.type_vocab_size == 1:
            raise UserError(
                "objective.nsp=true tells the model of two segments, and model.type_vocab_size=1 has a row for one; "
                "set it to 2."
            )
        if self.data.reset_attention:
            raise UserError(
                "data.reset_attention has no effect with objective.nsp=true, whose samples are padded pairs; remove it."
            )

    def _check_backend(self) -> None:
        """Refuse what the engine of ``zero.backend`` cannot do."""
        precisions = ("fp32", "fp64") if self.zero.backend == "fsdp2" else ("fp32",)
        wraps = self.zero.backend == "fairscale" and self.recompute.mode == "full"
        check_backend(
            self.zero,
            self.layout,
            {
                "tensor.sequence_parallel": (str(self.tensor.sequence_parallel).lower(), ("false",)),
                "recompute.offload": (self.recompute.offload, ("none", "cpu") if wraps else ("none",)),
                "optimizer.name": (self.optimizer.name, ("adamw",)),
                "train.precision": (self.train.precision, precisions),
                "objective.name": ("multitask" if self.objective.tasks else "any other", ("any other",)),
                "run.trace": (str(self.run.trace).lower(), ("false",)),
                "run.check_replicas": (str(self.run.check_replicas), ("0",)),
            },
        )

    @property
    def shard_size(self) -> int:
        """How many data-parallel ranks own a part of the parameters each; 1 where every rank owns all."""
        return (self.zero.shard_size or self.layout.dp * self.layout.cp) if self.zero.stage else 1

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage that the run has: 0 where there is nobody to share with."""
        return self.zero.stage if self.shard_size > 1 else 0

    def without_effect(self) -> list[str]:
        """Return one sentence for each setting that this run does not use, to be shown as a warning."""
        found = [*self.optimizer.without_effect(), *self.lr_schedule.without_effect(), *self.recompute.without_effect()]
        found += [*self._objective_without_effect(), *self._unseen_pattern()]
        if self.layout.tp == 1:
            tensor = {"sequence_parallel": self.tensor.sequence_parallel, "across_nodes": self.tensor.across_nodes}
            found += [f"tensor.{key}=true has no effect: layout.tp is 1." for key, value in tensor.items() if value]
        if self.zero.stage and not self.zero_stage:
            why = "zero.shard_size is 1" if self.layout.dp * self.layout.cp > 1 else "layout.dp is 1"
            found.append(f"zero.stage={self.zero.stage} has no effect: {why}.")
        if self.zero.shard_size is not None and not self.zero.stage:
            found.append(f"zero.shard_size={self.zero.shard_size} has no effect: zero.stage is 0.")
        if self.zero.backend != "native" and self.zero.prefetch != 1:
            found.append(f"zero.prefetch={self.zero.prefetch} has no effect: only zero.backend=native reads it.")
        if self.zero.offload_path is not None and self.zero.offload != "nvme":
            found.append(f"zero.offload_path={self.zero.offload_path} has no effect: zero.offload is not nvme.")
        if self.train.stop_after is not None and self.train.stop_after > self.train.steps:
            found.append(
                f"train.stop_after={self.train.stop_after} has no effect: the run ends at step {self.train.steps}."
            )
        return found

    def _unseen_pattern(self) -> list[str]:
        """Return a sentence where attention's pattern hides nothing of sequences as short as the run's."""
        config, causal = self.model.attention, self.model.family in DECODERS
        last, length = self.model.num_hidden_layers - 1, self.train.seq_length
        if config is None or config.of_layer(last) is None or hiding(config, last, length, causal=causal):
            return []
        return [f"model.attention.pattern={config.pattern} hides nothing of train.seq_length={length}."]

    def _objective_without_effect(self) -> list[str]:
        found = []
        if self.objective.name in ("instruct", "classify") and self.data.reset_attention:
            found.append("data.reset_attention=true has no effect: a record never sees another one.")
        if self.model.family == "bert" and self.objective.name == "mlm_nsp" and not self.objective.nsp:
            found.append("objective.nsp=false leaves the pooler and the head for pairs of model.family=bert as drawn.")
        for task in self.objective.tasks or []:
            found += [f"task {task.name}: {told}" for told in self.of_task(task)._objective_without_effect()]
        return found

    def without_effect_on(self, device_type: str) -> list[str]:
        """Return one sentence for each setting that a run on this type of device does not use."""
        if device_type != "cpu":
            return []
        offloads: dict[str, str] = {"recompute.offload": self.recompute.offload}
        if self.zero.backend == "native":
            offloads["zero.offload"] = self.zero.offload
        return [
            f"{key}={value} has no effect: the run computes on a CPU, whose memory is the host's."
            for key, value in offloads.items()
            if value != "none"
        ]
