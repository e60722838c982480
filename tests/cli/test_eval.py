"""Oracle: the held-out loss that training wrote into its metrics, and for refusals the exit code and one line."""

import json
import math
from pathlib import Path

import pytest

from megalm.cli.main import run
from megalm.data.indexed import IndexedTokens
from megalm.data.indexed_writer import IndexedWriter
from tests.cli.refusals import assert_refused

TEXT = "\n".join(f"def function_{n}(value):\n    return value + {n}\n" for n in range(300))
RUN = """
model: {family: gpt2, num_hidden_layers: 1, hidden_size: 16, num_attention_heads: 2, vocab_size: 300}
data: {train: [{path: corpus}]}
train: {steps: 2, global_batch_size: 4, micro_batch_size: 4, seq_length: 32, precision: fp64, eval_every: 2,
  eval_batches: 1000}
run: {dir: run}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a corpus, and train on it."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "texts").mkdir()
    for number in range(40):
        (folder / "texts" / f"{number}.txt").write_text(f"text {number}: {TEXT[number * 200 : number * 200 + 900]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "run.yaml").write_text(RUN)
        flags = ["--vocab-size", "300", "--validation", "0.3", "--near-duplicates", "0", "--workers", "1"]
        assert run(["data", "prepare", "texts", "--output", "corpus", *flags], {}) == 0
        assert run(["train", "run.yaml"], {}) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, float]:
    capfd.readouterr()
    assert run(["eval", "run", *arguments], {}) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return {part.split()[0]: float(part.split()[1]) for part in out.split("|")}


def test_the_held_out_split(capfd: pytest.CaptureFixture[str], place: Path) -> None:
    """Training leaves out the tokens behind the last whole window; without them both read the same."""
    whole = IndexedTokens(place / "corpus" / "validation")
    with IndexedWriter(place / "cut", whole.dtype) as writer:
        writer.add_document(whole.tokens(0, (whole.num_tokens - 1) // 32 * 32 + 1))
    rows = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    found = printed(capfd, "--data", "cut")
    assert found["loss"] == pytest.approx(rows[-1]["val_loss"], abs=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-4)
    assert printed(capfd, "--data", "corpus")["tokens"] == whole.num_tokens - 1 > found["tokens"]
    assert printed(capfd, "--data", "cut", "--batch-size", "3") == found
    assert printed(capfd, "--data", "cut", "--stride", "8")["loss"] != found["loss"]


def test_a_text(capfd: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "one.txt").write_text("def gréet():\n    pass\n")
    found = printed(capfd, "--data", "one.txt", "--window", "8", "--stride", "2")
    assert found["bits/byte"] == pytest.approx(found["loss"] * found["tokens"] / 0.6931471805599453 / 23, rel=1e-3)
    assert printed(capfd, "--data", "one.txt")["tokens"] == found["tokens"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere"], "--data nowhere is not there"),
        (["--data", "empty.txt"], "and nothing to predict"),
        (["--data", "bytes.txt"], "cannot be read as text"),
        (["--data", "one.txt", "--window", "2000"], "--window 2000 is longer than the 1024 positions"),
        (["--data", "one.txt", "--window", "8", "--stride", "9"], "--stride 9 would leave out tokens"),
        (["--data", "corpus", "--tokenizer", "other.json"], "was made with another tokenizer than other.json"),
        ([], "--data"),
    ],
)
def test_refusals(capfd: pytest.CaptureFixture[str], place: Path, arguments: list[str], sentence: str) -> None:
    (place / "empty.txt").write_text("")
    (place / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (place / "one.txt").write_text("def greet():\n    pass\n")
    tokenizer = json.loads((place / "corpus" / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (place / "other.json").write_text(json.dumps(tokenizer))
    assert_refused(capfd, ["eval", "run", *arguments], sentence)
