"""Oracle: the contract of the run file: its example block, its sentences, and that a resolved file is a fixed point."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from megalm.errors import UserError
from megalm.run_config import RunConfig
from megalm.validation import keys_of, section_at

SMALL = """
model: {family: gpt2, num_hidden_layers: 2, hidden_size: 32, num_attention_heads: 4, vocab_size: 512}
data: {train: [{path: data/small}]}
train: {steps: 10}
"""
EXAMPLE = """
run:        {dir: runs/quickstart, seed: 1234, device: auto, timeout: 600, trace: false, max_restarts: 0, check_replicas: 0}
model:      {family: gpt2, num_hidden_layers: 4, hidden_size: 256, num_attention_heads: 8, vocab_size: 8192, max_position_embeddings: 256}
layout:     {dp: 2, tp: 1, pp: 1, cp: 1, ep: 1}
tensor:     {sequence_parallel: false}
pipeline:   {schedule: 1f1b, stages_per_rank: auto}
zero:       {stage: 0, backend: native}
recompute:  {mode: none}
optimizer:  {name: adamw, lr: 1.0e-3, betas: [0.9, 0.95], weight_decay: 0.1, clip_grad_norm: 1.0}
lr_schedule: {name: cosine, warmup_steps: 20, min_lr: 1.0e-4}
objective:  {name: clm}
data:       {train: [{path: data/python-stdlib, weight: 1.0}], tokenizer: data/python-stdlib/tokenizer.json}
train:      {steps: 200, global_batch_size: 16, micro_batch_size: 4, seq_length: 256, precision: fp32, eval_every: 50}
checkpoint: {every: 50, keep: 2, resume: auto, async: true, load: null, weights_only: false}
track:      {wandb: false, tensorboard: false, project: megalm, name: null, tags: []}
"""  # noqa: E501


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as refused:
        RunConfig.load(path, overrides)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_only_model_data_and_train_are_required(small: Path) -> None:
    config = RunConfig.load(small)
    assert config.run.dir == "runs/small"
    assert config.layout.world_size == 1
    assert config.zero.stage == 0
    assert config.model.intermediate_size == 4 * 32
    for section in ("model", "data", "train"):
        assert refusal(small, f"{section}=") == f"{section} is missing and has no default; add it."


def test_the_example_block_loads_with_every_key(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)
    config = RunConfig.load(path)
    assert config.layout.world_size == 2
    assert config.optimizer.lr == 1e-3
    assert config.run.dir == "runs/quickstart"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("model.preset=gpt2-124m", "layout.dp=4", "layout.tp=3"),
        ("model.family=llama", "model.num_key_value_heads=2", "tensor.sequence_parallel=true"),
        ("optimizer.lr=0.1e-30", "track.name='yes'", "track.tags=[a, '5']", "checkpoint.async=false"),
        ("model.family=mine.models:build", "model.options={a: null, b: [1, {c: 2.5}]}", "train.stop_after=3"),
        ("data.train.1={path: b, weight: 3}", "data.validation=[c]", "data.tokenizer=d"),
        ("model.family=t5", "objective={name: seq2seq, seq2seq: denoising}", "train.seq_length=5000"),
    ],
)
def test_the_resolved_run_file_loads_back_equal(small: Path, overrides: tuple[str, ...]) -> None:
    config = RunConfig.load(small, overrides)
    again = small.with_name("run.yaml")
    again.write_text(config.to_yaml())
    assert RunConfig.load(again) == config
    assert RunConfig.load(again).to_yaml() == config.to_yaml()


def test_keys_left_out_of_a_resolved_file_default_to_null() -> None:
    """``to_yaml`` leaves nulls out, so no key may have another default and still take null."""

    def check(section: type[BaseModel]) -> None:
        for field in section.model_fields.values():
            assert field.is_required() or field.default is None or type(None) not in _alternatives(field.annotation)

    check(RunConfig)
    for name in RunConfig.model_fields:
        section = section_at(RunConfig, [name])
        if section is not None:
            check(section)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__args__", ())


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("layout.tp=2", ("layout", "tp", 2)),
        ("optimizer.lr=1e-3", ("optimizer", "lr", 0.001)),
        ("optimizer.weight_decay=0", ("optimizer", "weight_decay", 0.0)),
        ("layout={dp: 4, tp: 2}", ("layout", "dp", 4)),
        ("checkpoint.async=false", ("checkpoint", "async_", False)),
        ("track.name=", ("track", "name", None)),
        ("track.name=a=b", ("track", "name", "a=b")),
        ("train.seq_length= 17", ("train", "seq_length", 17)),
    ],
)
def test_an_override_replaces_one_value(small: Path, override: str, read: tuple[str, str, object]) -> None:
    section, key, value = read
    assert getattr(getattr(RunConfig.load(small, [override]), section), key) == value


def test_overrides_reach_into_lists_and_the_last_one_wins(small: Path) -> None:
    config = RunConfig.load(small, ["data.train.0.path=x", "data.train.1.path=y", "data.train.0.path=z"])
    assert [corpus.path for corpus in config.data.train] == ["z", "y"]


def test_an_override_does_not_write_through_an_anchor(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SMALL.replace("[{path: data/small}]", "[&one {path: a}, *one]"))
    config = RunConfig.load(path, ["data.train.1.path=b"])
    assert [corpus.path for corpus in config.data.train] == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("layout.tpp=2", "unknown key layout.tpp; did you mean layout.tp?"),
        ("layot.tp=2", "unknown key layot; did you mean layout?"),
        ("checkpoint.asynch=true", "unknown key checkpoint.asynch; did you mean checkpoint.async?"),
        ("lr=1e-3", "unknown key lr; did you mean optimizer.lr?"),
        ("train.lr=1e-3", "unknown key train.lr; did you mean optimizer.lr?"),
        ("data.train.0.pth=x", "unknown key data.train.0.pth; did you mean data.train.0.path?"),
        ("tensor.zzz=1", "unknown key tensor.zzz; tensor has the keys sequence_parallel, across_nodes."),
        ("layout.tp=two", 'layout.tp must be a whole number, not "two".'),
        ("layout.tp=2.0", "layout.tp must be a whole number, not 2.0."),
        ("layout.tp=true", "layout.tp must be a whole number, not true."),
        ("layout.tp=0", "layout.tp must be at least 1, not 0."),
        ("layout=2", "layout must be a section of keys, not 2."),
        ("optimizer.lr=high", 'optimizer.lr must be a number, not "high".'),
        ("optimizer.betas=[0.9]", "optimizer.betas must be a list of 2 or more, not [0.9]."),
        ("track.wandb=yes", 'track.wandb must be true or false, not "yes".'),
        ("track.name=5", "track.name must be text, not 5; quote it."),
        ("data.train.0.path=", "data.train.0.path must be text, not null."),
        ("data.train=[]", "data.train must be a list of 1 or more, not []."),
        ("data.train.3.path=x", "data.train.3.path: data.train has 1 entries; positions go from 0, and 1 appends."),
        (
            "data.train.first.path=x",
            "data.train.first.path: data.train is a list; give a position, as in data.train.0.",
        ),
        ("pipeline.stages_per_rank=0", "pipeline.stages_per_rank must be at least 1 or 'auto', not 0."),
        (
            "train.precision=fp31",
            "train.precision must be 'fp64', 'fp32', 'bf16', 'fp16' or 'fp8', not \"fp31\"; did you mean fp32?",
        ),
        ("train.steps.x=1", "train.steps.x cannot be set, because train.steps is 10 and has no keys below it."),
        ("layout.tp", "'layout.tp' is not understood; write an override as key.sub=value."),
        ("=2", "'=2' is not understood; write an override as key.sub=value."),
        ("format=2", "format must be 1, not 2."),
    ],
)
def test_what_is_wrong_is_told_with_its_key(small: Path, override: str, sentence: str) -> None:
    assert refusal(small, override) == sentence


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["layout.dp=3"], "layout.dp=3 does not divide train.global_batch_size=16"),
        (["train.seq_length=2000"], "train.seq_length=2000 is longer than the model.max_position_embeddings=1024"),
        (
            [
                "model={family: roberta, num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 4, vocab_size: 99}",
                "objective={name: mlm_nsp, nsp: false}",
                "train.seq_length=513",
            ],
            "train.seq_length=513 is longer than the model.max_position_embeddings=514 less the 2 rows before a first",
        ),
        (["model.family=t5"], "objective.name=clm is not for model.family=t5: seq2seq is what an encoder-decoder"),
        (
            ["objective.name=classify"],
            "objective.name=classify does not go with model.num_labels=null: a head for whole",
        ),
        (["model.num_labels=3"], "objective.name=clm does not go with model.num_labels=3: a head for whole samples is"),
        (["objective.name=seq2seq"], "objective.name=seq2seq is not for model.family=gpt2"),
        (
            ["model={family: bert, num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 4, vocab_size: 99}"],
            "objective.name=clm asks for tokens that model.family=bert, which reads to both sides, would see; use mlm",
        ),
        (["objective.name=rtd"], "objective.name=rtd is not for model.family=gpt2: rtd is what the generator and the"),
        (["model.family=electra"], "objective.name=clm is not for model.family=electra: rtd is what"),
        (
            ["model.family=electra", "objective.name=rtd", "model.generator_size=0.3", "layout.tp=2"],
            "layout.tp=2 is more than the generator's 1 attention heads, which are model.generator_size=0.3 of 4;",
        ),
        (
            ["model.family=electra", "objective.name=rtd", "model.generator_size=0.7", "model.hidden_size=72"],
            "model.generator_size=0.7 gives the generator 3 attention heads, which do not divide its 50 features;",
        ),
        (
            ["objective.name=mlm_nsp"],
            "objective.name=mlm_nsp needs a model that reads to both sides, and model",
        ),
        (
            [
                "model={family: roberta, num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 4, vocab_size: 99}",
                "objective.name=mlm_nsp",
            ],
            "objective.nsp=true has no head in model.family=roberta; set objective.nsp=false.",
        ),
        (
            [
                "model={family: bert, num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 4, vocab_size: 99}",
                "objective.name=mlm_nsp",
                "model.type_vocab_size=1",
            ],
            "objective.nsp=true tells the model of two segments, and model.type_vocab_size=1 has a row for one; set",
        ),
        (
            [
                "model={family: bert, num_hidden_layers: 2, hidden_size: 8, num_attention_heads: 4, vocab_size: 99}",
                "objective.name=mlm_nsp",
                "data.reset_attention=true",
            ],
            "data.reset_attention has no effect with objective.nsp=true, whose samples are padded pairs; remove it.",
        ),
        (["layout.tp=5"], "layout.tp=5 is more than model.num_attention_heads=4"),
        (["layout.pp=5"], "the pipeline has 5 stages, but the model has only 4 blocks"),
        (["layout.pp=3", "pipeline.schedule=zb-v"], "the pipeline has 6 stages, but the model has only 4 blocks"),
        (["layout.pp=2", "pipeline.blocks_per_stage=[2, 3]"], "pipeline.blocks_per_stage=[2, 3] gives 5 blocks"),
        (["pipeline.stages_per_rank=2"], "pipeline.stages_per_rank=2 contradicts pipeline.schedule=1f1b; 1f1b needs 1"),
        (["pipeline.schedule=1f2b"], "pipeline.schedule: '1f2b' is not known; did you mean '1f1b'?"),
        (["pipeline.schedule=none.csv"], "pipeline.schedule=none.csv cannot be read (No such file or directory)"),
    ],
)
def test_sections_that_do_not_fit_one_another_are_refused(small: Path, overrides: list[str], said: str) -> None:
    assert refusal(small, *overrides).startswith(said)


def test_a_model_of_ones_own_reads_its_sizes_as_it_likes(small: Path) -> None:
    own = ["model.family=mine:build", "layout.tp=8", "train.seq_length=5000"]
    assert RunConfig.load(small, own).layout.tp == 8


@pytest.mark.parametrize(
    "override",
    [
        "layout.cp=2",
        "layout.ep=2",
    ],
)
def test_what_is_not_built_yet_is_refused_by_name(small: Path, override: str) -> None:
    assert refusal(small, override).startswith(f"{override} is not built yet; ")


def test_settings_without_effect_are_told(small: Path) -> None:
    assert RunConfig.load(small).without_effect() == []
    unused = RunConfig.load(small, ["tensor.sequence_parallel=true", "zero.offload_path=/disk", "train.stop_after=11"])
    assert [sentence.partition("=")[0] for sentence in unused.without_effect()] == [
        "tensor.sequence_parallel",
        "zero.offload_path",
        "train.stop_after",
    ]
    used = RunConfig.load(small, ["tensor.sequence_parallel=true", "layout.tp=2", "train.stop_after=10"])
    assert used.without_effect() == []


def test_zero_has_an_effect_where_there_is_somebody_to_share_with(small: Path) -> None:
    for overrides, stage, size, told in (
        (["zero.stage=2"], 0, 1, ["zero.stage=2 has no effect: layout.dp is 1."]),
        (["zero.stage=2", "layout.dp=2"], 2, 2, []),
        (["zero.stage=3", "layout.dp=4", "zero.shard_size=2"], 3, 2, []),
        (
            ["zero.stage=3", "layout.dp=4", "zero.shard_size=1"],
            0,
            1,
            ["zero.stage=3 has no effect: zero.shard_size is 1."],
        ),
        (["layout.dp=2", "zero.shard_size=2"], 0, 1, ["zero.shard_size=2 has no effect: zero.stage is 0."]),
    ):
        config = RunConfig.load(small, overrides)
        assert (config.zero_stage, config.shard_size, config.without_effect()) == (stage, size, told)
    assert refusal(small, "zero.stage=1", "layout.dp=4", "zero.shard_size=3").startswith(
        "zero.shard_size=3 does not divide the 4 data-parallel ranks"
    )


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        (["optimizer.name=sgd", "optimizer.betas=[0.8, 0.9]", "optimizer.momentum=0.5"], ["betas"]),
        (["optimizer.momentum=0.5", "optimizer.betas=[0.8, 0.9]", "optimizer.eps=1e-5"], ["momentum"]),
        (["optimizer.name=examples.own_optimizer:RmsProp", "optimizer.momentum=0.5"], []),
    ],
)
def test_what_an_update_rule_does_not_read_is_told(small: Path, settings: list[str], keys: list[str]) -> None:
    told = RunConfig.load(small, settings).without_effect()
    assert [sentence.partition("=")[0] for sentence in told] == [f"optimizer.{key}" for key in keys]


def test_every_key_tells_its_consequence() -> None:
    for name in keys_of(RunConfig):
        section = section_at(RunConfig, [name])
        if section is not None:
            assert section.__doc__
            for key, field in section.model_fields.items():
                assert section_at(section, [key]) or field.description, f"{name}.{key}"
