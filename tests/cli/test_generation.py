"""Oracle: what the plain forward of the saved model says, and for refusals the exit code and one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from megalm.cli.main import run
from megalm.generation.generate import generate
from megalm.generation.options import Options
from tests.cli.refusals import assert_refused
from tests.generation.trained import PlainReading, bytes_tokenizer, trained
from tests.verify.runs import LLAMA

NEW = 10


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def model(run_dir: Path) -> nn.Module:
    made = trained(run_dir, LLAMA, model={"vocab_size": 257})[1]
    bytes_tokenizer().save(str(run_dir / "tokenizer.json"))
    return made


def said(model: nn.Module, prompts: list[list[int]], options: Options) -> list[list[int]]:
    return generate(PlainReading(model), prompts, options, lambda tokens: tokens[-1] == 256)


def by_megalm(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run(["generate", *arguments, "--max-new-tokens", str(NEW)], {})
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    return out


def test_ids(run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    expected = said(model, [[5, 17], [40]], Options(NEW))
    lines = [",".join(str(token) for token in tokens) + "\n" for tokens in expected]
    assert by_megalm(capfd, str(run_dir), "--prompt-ids", "5,17") == lines[0]
    assert by_megalm(capfd, str(run_dir), "--prompt-ids", "5,17", "--prompt-ids", "40") == "".join(lines)


def test_texts(run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = bytes_tokenizer()
    options = Options(NEW, temperature=0.7, top_k=30, top_p=0.9, repetition_penalty=1.1, seed=5)
    prompts = ["def ", "im", "x"]
    expected = said(model, [tokenizer.encode(prompt).ids for prompt in prompts], options)
    texts = [tokenizer.decode(tokens) for tokens in expected]
    flags = ["--temperature", "0.7", "--top-k", "30", "--top-p", "0.9", "--repetition-penalty", "1.1", "--seed", "5"]
    asked = [word for prompt in prompts for word in ("--prompt", prompt)]
    blocks = [f"> {prompt}\n{text}\n" for prompt, text in zip(prompts, texts, strict=True)]
    assert by_megalm(capfd, str(run_dir), *asked, *flags) == "\n".join(blocks)
    assert by_megalm(capfd, str(run_dir), *asked, *flags, "--batch-size", "2") == "\n".join(blocks)
    assert by_megalm(capfd, str(run_dir), *asked[:2], *flags) == f"{texts[0]}\n"


def test_a_stop_text(run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    whole = by_megalm(capfd, str(run_dir), "--prompt", "def ", "--temperature", "0.7").rstrip("\n")
    assert len(whole) > 5
    cut = by_megalm(capfd, str(run_dir), "--prompt", "def ", "--temperature", "0.7", "--stop", whole[3:5])
    assert cut == whole[: whole.index(whole[3:5])] + "\n"


def test_over_ranks_the_same_is_said(run_dir: Path, model: nn.Module) -> None:
    (expected,) = said(model, [[5, 17]], Options(NEW, num_beams=3))
    command = ["generate", str(run_dir), "layout.tp=2", "--prompt-ids", "5,17", "--num-beams", "3"]
    ended = subprocess.run(
        [sys.executable, "-m", "megalm", *command, "--max-new-tokens", str(NEW)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == ",".join(str(token) for token in expected) + "\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give what is to be continued"),
        (["--prompt", "a", "--prompt-ids", "5"], "give what is to be continued"),
        (["--prompt-ids", "5,x"], "--prompt-ids '5,x' is not understood"),
        (["--prompt-ids", "5,300"], "prompt 0 has token 300, and the model knows 0 to 256"),
        (["--prompt-ids", "5", "--max-new-tokens", "48"], "more than the 48 positions of the model"),
        (["--prompt", ""], "prompt 0 has no tokens"),
        (["--prompt", "a", "--tokenizer", "nowhere.json"], "nowhere.json is not there"),
        (["--prompt", "a", "--top-k", "3"], "--top-k has no effect at temperature 0"),
        (["--prompt", "a", "layout.dp=2"], "layout.dp has no effect here"),
        (["--prompt", "a", "--num-beans", "2"], "--num-beans"),
    ],
)
def test_refusals(
    run_dir: Path, model: nn.Module, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert_refused(capfd, ["generate", str(run_dir), *arguments], sentence)


def test_no_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", str(tmp_path), "--prompt", "a"], {}) == 2
    assert "is no checkpoint" in capfd.readouterr().err
