"""Runs a batch file under the real bash, with small programs in the place of Slurm's."""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megalm.launcher.slurm.batch_file import TEMPLATE, Request, batch_file
from megalm.launcher.templates import template
from megalm.run_config import RunConfig
from megalm.validation import validate

SRUN = """#!/bin/sh
for word in "$@"; do
    if [ "$word" = --overlap ]; then exec sh -c "$PROBE"; fi
done
for word in "$@"; do printf '%s\\0' "$word"; done >>"$SEEN/srun"
printf '\\n\\0' >>"$SEEN/srun"
echo $$ >"$SEEN/pid"
step=$(head -n 1 "$SEEN/steps")
sed -i 1d "$SEEN/steps"
eval "$step"
"""
SCANCEL = """#!/bin/sh
if [ -n "${PUT_OFF_S:-}" ]; then sleep "$PUT_OFF_S"; fi
echo "$@" >>"$SEEN/scancel"
kill "$(cat "$SEEN/pid")"
"""
SCONTROL = """#!/bin/sh
if [ "$1" = show ]; then echo h1; else echo "$@" >>"$SEEN/requeued"; fi
"""


def config_of(**sections: Mapping[str, Any]) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {"family": "gpt2", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2},
        "data": {"train": [{"path": "data"}]},
        "train": {"steps": 10, "seq_length": 8},
        "layout": {"dp": 4},
    }
    tree["model"] |= {"vocab_size": 300, "max_position_embeddings": 8}
    return validate(RunConfig, tree | {name: dict(section) for name, section in sections.items()})


def text_of(
    folder: Path, words: Sequence[str] = ("run.yaml",), request: Request | None = None, **sections: Mapping[str, Any]
) -> str:
    """Return the batch file of a run in ``folder``."""
    config = config_of(**{"run": {"dir": "run"}, **sections})
    return batch_file(template(TEMPLATE), request or Request(2, 2, "60"), config, words, "python3", folder)


class Bash:
    """What a batch file did.

    Args:
        folder: where it runs; the run directory is made there.
        text: of the batch file.
        steps: for each srun what it does, in sh; its parent is the batch file's shell.
        probe: what the question whether all nodes answer does, in sh.
        env: more variables.
    """

    def __init__(
        self,
        folder: Path,
        text: str,
        steps: Sequence[str] = ("exit 0",),
        probe: str = "exit 0",
        env: Mapping[str, str] | None = None,
    ) -> None:
        seen = folder.parent / f"{folder.name}-seen"
        programs = seen / "programs"
        programs.mkdir(parents=True, exist_ok=True)
        for name, program in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
            (programs / name).write_text(program)
            (programs / name).chmod(0o755)
        for name in ("srun", "scancel", "requeued"):
            (seen / name).unlink(missing_ok=True)
        (seen / "steps").write_text("".join(f"{step}\n" for step in steps))
        (seen / "batch").write_bytes(text.encode("utf-8", "surrogateescape"))
        done = subprocess.run(
            ["bash", seen / "batch"],
            cwd=folder,
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "SEEN": str(seen),
                "PROBE": probe,
                "SLURM_JOB_ID": "12",
                "SLURM_JOB_NUM_NODES": "2",
                "SLURM_JOB_NODELIST": "h[1-2]",
                **(env or {}),
            },
            capture_output=True,
            timeout=60,
        )
        self.code = done.returncode
        self.said = done.stderr.decode(errors="replace")
        self._seen = seen

    @property
    def started(self) -> list[list[str]]:
        """The words of each srun."""
        words = os.fsdecode(self._bytes("srun")).split("\0")
        found: list[list[str]] = [[]]
        for word in words[:-1]:
            if word == "\n":
                found.append([])
            else:
                found[-1].append(word)
        return found[:-1]

    @property
    def requeued(self) -> str:
        """What scontrol was asked."""
        return os.fsdecode(self._bytes("requeued")).strip()

    @property
    def asked(self) -> list[str]:
        """What scancel was asked."""
        return os.fsdecode(self._bytes("scancel")).splitlines()

    def _bytes(self, name: str) -> bytes:
        path = self._seen / name
        return path.read_bytes() if path.exists() else b""


def directives(text: str) -> dict[str, str]:
    """Return the options of the #SBATCH lines before the first command, as sbatch reads them."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "), comments=True)
            name, _, value = word.partition("=")
            found[name.removeprefix("--")] = value
    return found
