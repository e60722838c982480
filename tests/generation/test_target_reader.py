"""Oracle: transformers' generate on the same T5 and BART, one source at a time, token for token."""

from pathlib import Path
from typing import Any

import pytest
import torch

from megalm.checkpoint.store import CheckpointStore
from megalm.cli.main import run
from megalm.generation.asked import asked
from megalm.generation.generate import generate
from megalm.generation.opened import open_model
from megalm.generation.options import Options
from megalm.generation.target_reader import TargetReader
from megalm.mesh import Mesh
from megalm.training.resume import facts, owned_pieces
from tests.generation.trained import bytes_tokenizer
from tests.models.hugging_face_bart import bart
from tests.models.hugging_face_t5 import t5
from tests.models.test_decoder import values_of
from tests.models.test_encoder_decoder import BART, T5, run_of, state_of
from tests.ranks import RankContext, RankPool

SOURCES = [[5, 17, 3], [44], [8, 8, 9, 60, 2, 31, 7, 7, 1]]
START, END = 0, 1
OPTIONS = (Options(max_new_tokens=10), Options(max_new_tokens=7, num_beams=3))
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "t5": (T5, t5),
    "bart": ({**BART, "tie_word_embeddings": False}, bart),
}


def saved(directory: Path, name: str, **more: int) -> Any:
    """Save a model as a run's checkpoint, and return that of transformers with the same values."""
    fields, built = FAMILIES[name]
    config = run_of({**fields, **more}, "fp64")
    state = state_of(config)
    store = CheckpointStore(directory / "checkpoints", world=Mesh.alone().world, keep=1)
    store.save(1, owned_pieces(state), facts(state, config), asynchronous=False)
    return built(config.model, values_of(state), torch.float64).eval()


def said(directory: Path, overrides: list[str], mesh: Mesh) -> list[list[list[int]]]:
    model = open_model(directory, overrides, mesh)
    begun = [[START]] * len(SOURCES)
    return [
        generate(TargetReader(model, SOURCES), begun, options, lambda tokens: tokens[-1] == END) for options in OPTIONS
    ]


def said_by_rank(_: RankContext, directory: Path, overrides: list[str]) -> list[list[list[int]]]:
    return said(directory, overrides, Mesh.build(asked(overrides).layout, timeout_s=60))


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


@pytest.mark.parametrize(("name", "overrides"), [("t5", ["layout.pp=2"]), ("bart", ["layout.tp=2"])])
def test_targets(ranks: RankPool, tmp_path: Path, name: str, overrides: list[str]) -> None:
    model = saved(tmp_path, name)
    expected = [[by_transformers(model, source, options) for source in SOURCES] for options in OPTIONS]
    assert len({tuple(tokens) for tokens in expected[0]}) > 1  # what is said depends on the source
    assert said(tmp_path, [], Mesh.alone()) == expected
    assert ranks.run(2, said_by_rank, tmp_path, overrides) == [expected] * 2


def test_the_verb_frames_sources(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A source ends with </s>, number 256, and a target begins with <pad>, number 257; ids are taken as they are."""
    model = saved(tmp_path, "t5", vocab_size=258)
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
