"""Oracle: the slices of the whole tensors that transformers wrote, and one process."""

import gc
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megalm.checkpoint.piece import Piece
from megalm.hugging_face.importer import config_of, import_share, objective_of
from megalm.hugging_face.load import load_weights, open_weights
from megalm.mesh import Mesh
from megalm.models.config_json import model_fields
from megalm.run_config import RunConfig
from megalm.training.build import build_model, build_state, named_parameters
from megalm.training.model import whole_specs
from megalm.training.resume import owned_pieces
from megalm.validation import validate
from tests.hugging_face.directories import make
from tests.ranks import RankContext, RankPool

LAYOUTS: dict[str, dict[str, dict[str, object]]] = {
    "dp2": {"layout": {"dp": 2}},
    "tp2": {"layout": {"tp": 2}, "tensor": {"sequence_parallel": True}},
    "pp2": {"layout": {"pp": 2}},
    "tp2 pp2": {"layout": {"tp": 2, "pp": 2}},
    "zero 3": {"layout": {"dp": 2}, "zero": {"stage": 3}},
    "zero 1, bf16": {"layout": {"dp": 2}, "zero": {"stage": 1}, "train": {"precision": "bf16"}},
}
TIED = "llama tied, biases, its own head size"
NEOX = "gpt_neox, a quarter rotates, vocabulary 1009"
STACKS = "t5 untied, gated, its own head size, deeper decoder"
CASES = [
    *((name, layout) for name in (TIED, NEOX) for layout in LAYOUTS),
    *((STACKS, layout) for layout in ("tp2", "pp2")),
    ("bart", "tp2 pp2"),
]


def run_of(source: Path, sections: dict[str, dict[str, object]] | None = None) -> RunConfig:
    sections = sections or {}
    train = {"seq_length": 8, "global_batch_size": 4, **sections.get("train", {})}
    fields = model_fields(source)
    objective = objective_of(fields["family"], fields.get("num_labels"))
    data = {"train": [{"path": "not read"}]}
    return validate(
        RunConfig, {"model": {"from": str(source)}, "objective": objective, "data": data, **sections, "train": train}
    )


def whole(config: RunConfig) -> dict[str, torch.Tensor]:
    """Read the directory's parameters whole, under our names."""
    assert config.model.from_ is not None
    specs = whole_specs(config.model)
    values = {name: torch.empty(spec.shape) for name, spec in specs.items()}
    open_weights(Path(config.model.from_), config.model).read_into({n: Piece.whole(v) for n, v in values.items()})
    return values


def wrong_elements(context: RankContext, config: RunConfig) -> tuple[int, list[str]]:
    """Start a run; return how many elements this rank counts, and the names of those that are not the directory's."""
    state = build_state(config, Mesh.build(config.layout, timeout_s=30))
    load_weights(state, config)
    expected, seen, wrong = whole(config), 0, []
    for name, piece in owned_pieces(state).items():
        for offsets, values in () if name.startswith("optimizer.") else piece.parts:
            there = tuple(slice(start, start + size) for start, size in zip(offsets, values.shape, strict=True))
            seen += values.numel()
            if not torch.equal(values, expected[name][there]):
                wrong.append(name)
    if config.zero_stage < 3:  # and what others update has reached this rank
        for name, parameter in named_parameters(state).items():
            slices = parameter.spec.local_slices({"tp": state.mesh.tp.rank})  # type: ignore[attr-defined]
            if not torch.equal(parameter.detach(), expected[name][slices].to(parameter.dtype)):
                wrong.append(name)
    return seen, wrong


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_run_starts_from_a_directory_at_any_layout(name: str, layout: str, tmp_path: Path, ranks: RankPool) -> None:
    make(name, tmp_path, shard="20KB")
    config = run_of(tmp_path, LAYOUTS[layout])
    found = ranks.run(config.layout.world_size, wrong_elements, config)
    assert [wrong for _, wrong in found] == [[]] * len(found)
    counted = sum(seen for seen, _ in found) // (1 if config.zero.stage else config.layout.dp)
    assert counted == sum(math.prod(spec.shape) for spec in whole_specs(config.model).values())


def test_the_model_of_the_public_door_has_them(tmp_path: Path) -> None:
    make(NEOX, tmp_path)
    config = run_of(tmp_path)
    expected = whole(config)
    named = dict(build_model(config, Mesh.alone()).named_parameters())
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[name], expected[name]) for name in named)


# --- memory -----------------------------------------------------------------------------------------------------------

FULL = os.environ.get("MEGALM_TEST_FULL") == "1"
LARGE = (
    {"vocab_size": 16384, "hidden_size": 1024, "num_hidden_layers": 16, "intermediate_size": 3072}
    if FULL
    else {"vocab_size": 16384, "hidden_size": 512, "num_hidden_layers": 1, "intermediate_size": 1536}
)
ALLOWED_MIB = 200 if FULL else 20
"""In the short form less than one of the tables, so that a tensor that is read whole does not pass."""


class PeakAnonymous:
    """The largest RssAnon of this process while the block runs, above what it was before, in MiB."""

    def __enter__(self) -> "PeakAnonymous":
        gc.collect()
        self._before = self.peak = rss_anon_mib()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, rss_anon_mib()) - self._before

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self.peak = max(self.peak, rss_anon_mib())


def rss_anon_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def large_directory(directory: Path) -> float:
    """Write a llama in shards, and return its MiB."""
    config = {**LARGE, "model_type": "llama", "num_attention_heads": 16, "max_position_embeddings": 64}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    fields = model_fields(directory)
    specs = whole_specs(run_of(directory).model)
    assert fields["family"] == "llama"
    names, total = list(specs), 0
    weight_map: dict[str, str] = {}
    for number in range(0, len(names), 20):
        tensors = {name: torch.full(specs[name].shape, 0.01) for name in names[number : number + 20]}
        file = f"model-{number:05d}.safetensors"
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return total / 2**20


def peak_of_import(context: RankContext, source: Path, out: Path) -> float:
    config = config_of(source, ["layout.tp=4"])
    mesh = Mesh.build(config.layout, timeout_s=100)
    with PeakAnonymous() as memory:
        import_share(config, out, mesh)
    return memory.peak


def peak_of_start(context: RankContext, source: Path) -> float:
    config = run_of(source, {"layout": {"tp": 4}})
    state = build_state(config, Mesh.build(config.layout, timeout_s=100))
    with PeakAnonymous() as memory:
        load_weights(state, config)
    return memory.peak


def test_a_rank_holds_its_share_and_little_else(tmp_path: Path, ranks: RankPool) -> None:
    weights = large_directory(tmp_path / "theirs")
    assert weights / 4 + ALLOWED_MIB < weights * 0.7  # the whole would not pass
    started = time.monotonic()
    imports = ranks.run(4, peak_of_import, tmp_path / "theirs", tmp_path / "ours")
    starts = ranks.run(4, peak_of_start, tmp_path / "theirs")
    print(
        f"weights {weights:.0f} MiB; above the value before, by rank: import {[round(peak) for peak in imports]} MiB, "
        f"model.from {[round(peak) for peak in starts]} MiB; {time.monotonic() - started:.0f} s"
    )
    assert max(imports) <= weights / 4 + ALLOWED_MIB
    assert max(starts) <= ALLOWED_MIB  # what it fills is there already
