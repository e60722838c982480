"""Oracle: transformers' own reading of what was exported, and its own generate, which is told nothing more."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from megalm.checkpoint.store import open_newest
from megalm.cli.main import run
from megalm.data.prepare import prepare
from megalm.generation.options import Options
from megalm.hugging_face.data_facts import data_facts
from megalm.hugging_face.exporter import export
from megalm.mesh import Axis
from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.generation.test_target_reader import SOURCES, by_transformers, saved
from tests.generation.trained import VOCAB_SIZE as VOCABULARY
from tests.generation.trained import bytes_tokenizer, trained
from tests.hugging_face.test_exporter import MODEL, save
from tests.ranks import RankPool

NEW, VOCAB_SIZE, PAD = 9, 61, 0
NAMES = ["json", "os", "re"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    words = [f"{name}{number}" for name in NAMES for number in range(40)]
    records = [{"text": " ".join(words[at : at + 10]), "label": NAMES[at // 40]} for at in range(0, 120, 10)]
    (folder / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    prepare([str(folder / "some.jsonl")], folder / "data", 300, records="labelled", special_tokens="bert")
    return folder / "data"


def classifier(data: list[Path], num_labels: int) -> RunConfig:
    tree = {
        "model": {"family": "bert", **MODEL, "num_labels": num_labels},
        "objective": {"name": "classify"},
        "data": {"train": [{"path": str(path)} for path in data]},
        "train": {"seq_length": 8, "global_batch_size": 4},
    }
    return validate(RunConfig, tree)


@pytest.mark.parametrize("num_labels", [3, 5])
def test_classes_have_the_names_of_the_data(num_labels: int, labelled: Path, tmp_path: Path, ranks: RankPool) -> None:
    import transformers

    ranks.run(1, save, classifier([labelled], num_labels), tmp_path / "run")
    export(open_newest(tmp_path / "run", Axis.alone()), tmp_path / "out")
    found: Any = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    names = [*NAMES, *(f"LABEL_{number}" for number in range(3, num_labels))]
    assert found.id2label == dict(enumerate(names))
    assert found.label2id == {name: number for number, name in enumerate(names)}
    assert found.num_labels == num_labels


def test_data_that_disagree_name_no_classes(labelled: Path, tmp_path: Path) -> None:
    assert "id2label" in data_facts(classifier([labelled, tmp_path, labelled], 3), [], {"id2label": {"0": "old"}})
    meta = json.loads((labelled / "meta.json").read_text())
    meta["records"]["labels"].reverse()
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert data_facts(classifier([labelled, tmp_path], 3), [], {}) == {}


def words(special: Mapping[str, int], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Return a tokenizer in which special tokens have these numbers."""
    names = {number: name for name, number in special.items()}
    return Tokenizer(models.WordLevel({names.get(number, f"word{number}"): number for number in range(vocab_size)}))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_transformers_begins_and_ends_as_we_do(family: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    more = {"tie_word_embeddings": True} if family == "bart" else {}
    _, original = saved(tmp_path / "run", family, vocab_size=VOCAB_SIZE, **more)
    if family == "t5":  # ends with a word that it says
        end = by_transformers(original, SOURCES[0], Options(NEW), PAD, VOCAB_SIZE - 1)[3]
        expected: dict[str, int | None] = {"pad_token_id": PAD, "eos_token_id": end, "decoder_start_token_id": PAD}
    else:  # begins with what it ends with, and does not end by itself
        lasting = (len(by_transformers(original, SOURCES[0], Options(NEW), start, start)) for start in range(6, 60))
        end = 6 + next(number for number, length in enumerate(lasting) if length == NEW)
        expected = {"pad_token_id": PAD, "bos_token_id": 5, "eos_token_id": end, "decoder_start_token_id": end}
        expected["forced_eos_token_id"] = None  # without it releases of transformers before 5 force an end
    words({"<pad>": PAD, "</s>": end, "<s>": 5} if family == "bart" else {"<pad>": PAD, "</s>": end}).save(
        str(tmp_path / "run" / "tokenizer.json")
    )
    export(open_newest(tmp_path / "run", Axis.alone()), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: written[key] for key in expected} == expected

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out", dtype=torch.float64).eval()
    said = []
    for source in SOURCES:
        (theirs,) = model.generate(torch.tensor([source]), max_new_tokens=NEW, do_sample=False, num_beams=1).tolist()
        said.append(theirs)
        for directory in ("run", "out"):
            ids = ",".join(map(str, source))
            flags = ["--prompt-ids", ids, "--max-new-tokens", str(NEW), "train.precision=fp64"]
            assert run(["generate", str(tmp_path / directory), *flags], {}) == 0
            assert capfd.readouterr().out == ",".join(map(str, theirs[1:])) + "\n"
    assert all(tokens[0] == expected["decoder_start_token_id"] for tokens in said)
    assert (len(said[0]) == 1 + NEW) == (family == "bart")


@pytest.mark.parametrize("name", ["gpt2 tied, 5 heads, dropout", "llama, 3 key heads to 6, dropout"])
def test_transformers_ends_a_document_where_we_do(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    trained(tmp_path / "run", name)
    prompt = [5, 3, 40]
    flags = ["--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", str(NEW), "train.precision=fp64"]

    def said(out: Path, end: int | None) -> tuple[str, str]:
        export(open_newest(tmp_path / "run", Axis.alone()), out)
        written = json.loads((out / "config.json").read_text())
        assert written["bos_token_id"] == written["eos_token_id"] == end
        model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float64).eval()
        (theirs,) = model.generate(torch.tensor([prompt]), max_new_tokens=NEW, do_sample=False).tolist()
        assert run(["generate", str(tmp_path / "run"), *flags], {}) == 0
        return capfd.readouterr().out.strip(), ",".join(map(str, theirs[len(prompt) :]))

    ours, theirs = said(tmp_path / "endless", None)
    assert ours == theirs
    assert ours.count(",") == NEW - 1
    end = int(ours.split(",")[3])  # a token that it says
    words({"</s>": end}, VOCABULARY).save(str(tmp_path / "run" / "tokenizer.json"))
    ours, theirs = said(tmp_path / "ending", end)
    assert ours == theirs
    assert ours.endswith(f"{end}")
    assert ours.count(",") < NEW - 1


def test_what_the_first_directory_says_stays(tmp_path: Path) -> None:
    bytes_tokenizer("</s>", "<pad>").save(str(tmp_path / "tokenizer.json"))
    tree = {
        "model": {"family": "t5", **MODEL},
        "objective": {"name": "seq2seq"},
        "data": {"train": [{"path": "none"}]},
        "train": {"seq_length": 8},
    }
    config = validate(RunConfig, tree)
    like = {"eos_token_id": 1, "pad_token_id": None}
    assert data_facts(config, [tmp_path], like) == {"pad_token_id": 257, "decoder_start_token_id": 257}
    assert data_facts(config, [], like) == {}
