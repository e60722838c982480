"""The objective section of the run file."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from megalm.data.config import DataConfig
from megalm.errors import UserError
from megalm.section import Section

Noise = Literal["mask", "delete", "infill", "permute", "rotate"]

_DENOISING: Mapping[str, Any] = {"noise": ["infill", "permute"], "noise_density": 0.3, "mean_span_length": 3.0}
_SENTENCES: Mapping[str, Any] = {"sentence_ends": [".", "?", "!"]}
_SEQ2SEQ: Mapping[str, Mapping[str, Any]] = {
    "spans": {"noise_density": 0.15, "mean_span_length": 3.0},
    "denoising": _DENOISING,
    "pairs": {},
}
_REPLACED: Mapping[str, Any] = {"noise_density": 0.15, "whole_word": False, "rtd_weight": 50.0}
_MASKED: Mapping[str, Any] = {"noise_density": 0.15, "whole_word": False, "nsp": True}


TASK_OBJECTIVES = ("clm", "classify", "instruct", "mlm_nsp", "seq2seq")
"""What one of several tasks may learn, beside objectives of the user's own."""


class SingleObjective(Section):
    """What the model learns from one set of data; keys that the objective does not read are refused."""

    name: str = Field(
        "clm",
        description="clm: the next token; classify: the labels of records; instruct: the answers of records; mlm_nsp: "
        "hidden tokens, and whether two texts belong together; rtd: which tokens a generator has replaced; seq2seq: an "
        "encoder-decoder's target; multitask: the tasks below; or package.module:name of your own",
    )
    seq2seq: Literal["spans", "denoising", "pairs"] | None = Field(
        None,
        description="What an encoder-decoder reads and says. spans: a text with spans hidden behind sentinels, and "
        "what they hide (T5; the default); denoising: a damaged text, and the text (BART); pairs: source and target of "
        "records.",
    )
    noise: list[Noise] | None = Field(
        None,
        min_length=1,
        description="How denoising damages a text. mask: tokens become masks; delete: tokens go; infill: spans "
        "become one mask each; permute: sentences change places; rotate: the text begins elsewhere. By default "
        "[infill, permute].",
    )
    noise_density: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of a text's tokens that is hidden: 0.15 by default, of denoising 0.3, taken by each of "
        "mask, delete and infill. More makes longer targets for spans, and a harder task.",
    )
    mean_span_length: float | None = Field(
        None, ge=1, description="Tokens of a hidden span on average, 3 by default; longer spans need fewer sentinels."
    )
    whole_word: bool | None = Field(
        None,
        description="true hides words whole, a harder task than pieces of words (mlm_nsp, rtd); false by default",
    )
    nsp: bool | None = Field(
        None,
        description="true makes samples of two texts, of which in half the second follows the first, and asks which "
        "(BERT; the default); false makes samples of one running text (RoBERTa).",
    )
    nsp_weight: float | None = Field(
        None,
        gt=0,
        description="What the loss of nsp counts beside that of tokens; 1 by default.",
    )
    rtd_weight: float | None = Field(
        None,
        gt=0,
        description="What the loss of the discriminator counts beside that of the generator; 50 by default (ELECTRA), "
        "since to tell two things apart loses much less than to name a token.",
    )
    sentence_ends: list[str] | None = Field(
        None,
        description="For permute and nsp: a sentence ends with a token whose text, spaces aside, ends so, with a line "
        'break, and with a document; an empty list leaves lines. Default [".", "?", "!"].',
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, given: Any) -> Any:
        """Fill what was left out, and refuse what the objective does not read."""
        if not isinstance(given, dict):
            return given
        defaults = {key: value for key, value in _defaults(given).items() if key in cls.model_fields}
        for key in given:
            if key in cls.model_fields and key != "name" and given[key] is not None and key not in defaults:
                raise UserError(f"objective.{key} has no effect with {_named(given)}; remove it.")
        return {**defaults, **{key: value for key, value in given.items() if value is not None}}


class TaskConfig(Section):
    """One of the tasks that a run learns together."""

    name: str = Field(
        pattern="^[A-Za-z][A-Za-z0-9_-]*$", description="How metrics and parameters call the task: letters, digits, _ -"
    )
    objective: SingleObjective = Field(
        default_factory=SingleObjective, description="What the task learns: the keys of a run that has only this one."
    )
    data: DataConfig = Field(description="What the task is learned from and judged on.")
    samples: int = Field(
        ge=1,
        description="Samples of the task in each global batch. Those of all tasks add up to train.global_batch_size; "
        "more give a steadier gradient of the task, and need not change what it counts.",
    )
    weight: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="What the task's mean loss counts in the loss that is learned, which is the sum over the tasks.",
    )
    num_labels: int | None = Field(
        None, ge=2, description="Classes that the task's own head tells apart; what a classify task needs."
    )


class ObjectiveConfig(SingleObjective):
    """What the model learns from the data; keys that the objective does not read are refused."""

    tasks: list[TaskConfig] | None = Field(
        None,
        min_length=1,
        description="What multitask learns together: a trunk that all tasks share, and a head of its own for each that "
        "says something of whole samples. Each task has its data, so the run has no section data.",
    )

    sharing: Literal["hard", "soft"] | None = Field(
        None,
        description="hard: all tasks share one trunk (the default). soft: each has its own model, and how far they "
        "lie apart is penalized; parameters and their memory grow with the tasks.",
    )
    soft_penalty: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="What the sum of squared differences between the models of each two tasks counts in the loss; 1e-3 "
        "by default. More pulls them together.",
    )

    @property
    def num_labels(self) -> dict[str, int]:
        """The classes of the heads that tasks have on one trunk, by task."""
        if self.sharing == "soft":
            return {}
        return {task.name: task.num_labels for task in self.tasks or [] if task.num_labels is not None}

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        """Refuse tasks that are none, or that cannot be told apart."""
        if self.name == "multitask" and self.tasks is None:
            raise UserError("objective.tasks is missing, and objective.name=multitask learns nothing else; add them.")
        for number, task in enumerate(self.tasks or []):
            name = task.objective.name
            if ":" not in name and name not in TASK_OBJECTIVES:
                raise UserError(
                    f"objective.tasks.{number}.objective.name={name} is not for one of several tasks; choose one of "
                    f"{', '.join(TASK_OBJECTIVES)}, or give package.module:name."
                )
            if task.name in [other.name for other in (self.tasks or [])[:number]]:
                raise UserError(f"objective.tasks.{number}.name={task.name} is another task's too; choose another one.")
        return self


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that the objective reads beside its name, and their defaults."""
    if given.get("name") == "multitask":
        return {"tasks": None, "sharing": "hard", **({"soft_penalty": 1e-3} if given.get("sharing") == "soft" else {})}
    if given.get("name") == "mlm_nsp":
        return {**_MASKED, **({} if given.get("nsp") is False else {"nsp_weight": 1.0, **_SENTENCES})}
    if given.get("name") == "rtd":
        return dict(_REPLACED)
    if given.get("name") != "seq2seq":
        return {}
    kind = given.get("seq2seq") or "spans"
    found = {"seq2seq": kind, **_SEQ2SEQ.get(str(kind), {})}
    noise = given.get("noise") or found.get("noise") or []
    if "permute" in noise:
        found.update(_SENTENCES)
    if "infill" not in noise and kind == "denoising":
        del found["mean_span_length"]
        if not {"mask", "delete"} & set(noise):
            del found["noise_density"]
    return found


def _named(given: Mapping[str, Any]) -> str:
    """Return what of the section decides which keys it reads."""
    words = [f"objective.name={given.get('name', 'clm')}"]
    if given.get("name") == "seq2seq":
        words.append(f"objective.seq2seq={given.get('seq2seq') or 'spans'}")
    if given.get("sharing") is not None:
        words.append(f"objective.sharing={given['sharing']}")
    if given.get("nsp") is not None:
        words.append(f"objective.nsp={str(given['nsp']).lower()}")
    if given.get("noise"):
        words.append(f"objective.noise={given['noise']}")
    return ", ".join(words)
