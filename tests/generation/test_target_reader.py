"""Oracle: transformers' generate on the same T5 and BART, and the plain forward of the model that was saved.

Both are given one source at a time; tokens agree one by one, logits to 1e-10.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch, Source
from megalm.checkpoint.store import CheckpointStore
from megalm.cli.main import run
from megalm.generation.asked import asked
from megalm.generation.generate import Reader, generate
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.generation.target_reader import TargetReader
from megalm.mesh import Mesh
from megalm.models.encoder_decoder_layers import EncoderLayer, Rows
from megalm.training.resume import facts, owned_pieces
from tests.generation.trained import Noting, bytes_tokenizer
from tests.models.hugging_face_bart import bart
from tests.models.hugging_face_t5 import t5
from tests.models.test_decoder import values_of
from tests.models.test_encoder_decoder import BART, T5, run_of, state_of
from tests.ranks import RankContext, RankPool

SOURCES = [[5, 17, 3], [44], [8, 8, 9, 60, 2, 31, 7, 7, 1]]
START, END = 0, 1
SEARCHED = (Options(max_new_tokens=10), Options(max_new_tokens=7, num_beams=3))
OPTIONS = (*SEARCHED, Options(max_new_tokens=9, temperature=1.3, top_k=20))
TOLERANCE = 1e-10
LAYOUTS = (["layout.tp=2"], ["layout.pp=2"], ["layout.tp=2", "layout.pp=2"])
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "t5": (T5, t5),
    "bart": ({**BART, "tie_word_embeddings": False}, bart),
}


class PlainReading:
    """A reader that gives each source and its target to the model alone and whole, by its own plain forward."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._sources = SOURCES
        self._targets: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        self._sources, self._targets = SOURCES, [list(prompt) for prompt in prompts]
        return self._logits()

    def go_on(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self._sources = [self._sources[parent] for parent in parents]
        self._targets = [[*self._targets[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self._logits()

    def _logits(self) -> Tensor:
        found = []
        for source, target in zip(self._sources, self._targets, strict=True):
            read, said = torch.tensor([source]), torch.tensor([target])
            of_read, of_said = (torch.arange(tokens.numel()).unsqueeze(0) for tokens in (read, said))
            labels = torch.full_like(said, IGNORED)
            batch = MicroBatch(said, labels, of_said, of_said, 0.0, source=Source(read, of_read, of_read))
            found.append(self._model.logits(batch)[-1])  # type: ignore[operator]
        return torch.stack(found)


def saved(directory: Path, name: str, **more: int) -> tuple[nn.Module, Any]:
    """Save a model as a run's checkpoint, and return it and that of transformers with the same values."""
    fields, built = FAMILIES[name]
    config = run_of({**fields, **more}, "fp64")
    state = state_of(config)
    store = CheckpointStore(directory / "checkpoints", world=Mesh.alone().world, keep=1)
    store.save(1, owned_pieces(state), facts(state, config), asynchronous=False)
    return state.model.eval(), built(config.model, values_of(state), torch.float64).eval()


Said = tuple[list[list[list[int]]], list[Tensor]]
"""The tokens by options, and the logits that they were chosen by."""


def said(read_with: Callable[[Options], Reader]) -> Said:
    tokens, logits = [], []
    for options in OPTIONS:
        reader = Noting(read_with(options))
        tokens.append(generate(reader, [[START]] * len(SOURCES), options, lambda tokens: tokens[-1] == END))
        logits += reader.logits
    return tokens, [each.clone() for each in logits]  # a tensor of inference mode does not travel


def said_from(directory: Path, overrides: list[str], mesh: Mesh) -> Said:
    model = open_model(directory, overrides, mesh)
    return said(lambda options: TargetReader(model, options.max_new_tokens, SOURCES))


def said_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> Said:
    return said_from(directory, overrides, Mesh.build(asked(overrides).layout, timeout_s=60))


def by_transformers(model: Any, source: list[int], options: Options, start: int = START, end: int = END) -> list[int]:
    out = model.generate(
        torch.tensor([source]),
        attention_mask=torch.ones(1, len(source), dtype=torch.int64),
        max_new_tokens=options.max_new_tokens,
        min_length=0,
        do_sample=False,
        num_beams=options.num_beams,
        early_stopping=False,
        no_repeat_ngram_size=0,
        length_penalty=1.0,
        forced_bos_token_id=None,
        forced_eos_token_id=None,
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=2,
    )
    tokens: list[int] = out[0, 1:].tolist()
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_targets(ranks: RankPool, tmp_path: Path, name: str) -> None:
    ours, theirs = saved(tmp_path, name)
    expected, plain = said(lambda _: PlainReading(ours))
    wanted = [[by_transformers(theirs, source, options) for source in SOURCES] for options in SEARCHED]
    assert expected[: len(SEARCHED)] == wanted
    assert len({tuple(tokens) for tokens in expected[0]}) > 1  # what is said depends on the source
    found = [said_from(tmp_path, [], Mesh.alone())]
    for overrides in LAYOUTS:
        found += ranks.run(asked(overrides).layout.world_size, said_by_rank, tmp_path, overrides)
    for tokens, logits in found:
        assert tokens == expected
        apart = [float((one - other).abs().max()) for one, other in zip(logits, plain, strict=True)]
        assert max(apart) <= TOLERANCE


def test_an_encoder_reads_its_source_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers read three sources of up to nine tokens for the first token, and nothing for the two after it."""
    saved(tmp_path, "t5")
    read: list[int] = []

    def forward(layer: EncoderLayer, flow: Rows, batch: MicroBatch) -> Rows:
        out = plain(layer, flow, batch)
        read.append(sum(len(rows) for rows in out.values()))
        return out

    plain = EncoderLayer.forward
    monkeypatch.setattr(EncoderLayer, "forward", forward)
    reader = TargetReader(open_model(tmp_path, [], Mesh.alone()), 3, SOURCES)
    generate(reader, [[START]] * len(SOURCES), Options(max_new_tokens=3))
    assert read == [27, 27, 0, 0, 0, 0]


def test_targets_of_unlike_beginnings_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "bart")
    reader = TargetReader(open_model(tmp_path, [], Mesh.alone()), 3, SOURCES)
    with pytest.raises(ValueError, match="begin with equally many tokens"):
        reader.begin([[START], [START, 5], [START]])


def test_the_verb_frames_sources(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A source ends with </s>, number 256, and a target begins with <pad>, number 257; ids are taken as they are."""
    _, model = saved(tmp_path, "t5", vocab_size=258)
    tokenizer = bytes_tokenizer("</s>", "<pad>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    framed = [[*tokenizer.encode(text).ids, 256] for text in ("ab", "a longer one")]
    expected = [by_transformers(model, source, Options(8), 257, 256) for source in framed]
    flags = ["--max-new-tokens", "8"]
    assert run(["generate", str(tmp_path), "--prompt", "ab", "--prompt", "a longer one", *flags], {}) == 0
    blocks = [
        f"> {text}\n{tokenizer.decode(ids)}\n" for text, ids in zip(("ab", "a longer one"), expected, strict=True)
    ]
    assert capfd.readouterr() == ("\n".join(blocks), "")
    given = ",".join(str(token) for token in framed[0])
    assert run(["generate", str(tmp_path), "--prompt-ids", given, *flags], {}) == 0
    assert capfd.readouterr() == (",".join(str(token) for token in expected[0]) + "\n", "")
    assert run(["eval", str(tmp_path), "--data", "x"], {}) == 2
    assert "reads one text to say another" in capfd.readouterr().err
