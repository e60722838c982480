"""``report.html``: a whole run on one self-contained page, made from the files of its run directory alone."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from megalm.errors import UserError
from megalm.layout import Layout
from megalm.training.metrics import TASK, Row, held_out, rows
from megalm.training.report_chart import WIDE, Chart, Series
from megalm.training.report_layout import layout_section
from megalm.training.report_markup import Node, node, page, table
from megalm.training.report_memory import memory_section
from megalm.training.report_scale import size_text
from megalm.training.report_style import STYLE
from megalm.training.report_timeline import timeline_section
from megalm.training.timeline import chrome_trace
from megalm.training.trace_files import files_in
from megalm.whole_text import replace_text


def write_report(run_dir: Path) -> Path:
    """Write ``RUN_DIR/report.html`` anew and return its path; a running run may be reported too.

    Raises:
        UserError: ``run_dir`` is not the directory of a run, or its files cannot be read or the page written.
    """
    text, run = _read_run_file(run_dir / "run.yaml")
    metrics_path = run_dir / "metrics.jsonl"
    measured = rows(metrics_path) if metrics_path.exists() else []
    title = f"{run_dir.resolve().name}: a megalm run"
    layout = _layout(run, run_dir)
    traces = files_in(run_dir, layout.world_size) if _value(run, "run", "trace") else {}
    body = node(
        "body",
        node("h1", run_dir.resolve().name),
        node("p", node("small", _headline(run))),
        *_results(run, measured),
        node("h2", "Layout"),
        layout_section(layout),
        *memory_section(run_dir / "memory.json"),
        *_communication(run_dir / "communication.json"),
        *timeline_section(traces, layout),
        node("h2", "Run file"),
        node("details", node("summary", "run.yaml, as resolved"), node("pre", text), open_=""),
    )
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("title", title),
        node("style", STYLE),
    )
    path = run_dir / "report.html"
    try:
        if traces:
            path.with_name("trace.json").write_text(chrome_trace(traces), encoding="utf-8")
        replace_text(path, page(node("html", head, body, lang="en")))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); free some space or mend its permissions.") from error
    return path


def _read_run_file(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        run = YAML(typ="safe", pure=True).load(text)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); name the directory of a run.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML ({str(error).splitlines()[0]}); mend it or name another run.") from error
    if not isinstance(run, dict):
        raise UserError(f"{path} holds no run; name the directory of a run.")
    return text, run


def _layout(run: dict[str, Any], run_dir: Path) -> Layout:
    try:
        return Layout.model_validate(run.get("layout") or {})
    except ValueError as error:
        raise UserError(f"{run_dir / 'run.yaml'} has no usable layout section; mend it or name another run.") from error


def _value(run: dict[str, Any], section: str, key: str) -> Any:
    found = run.get(section)
    return found.get(key) if isinstance(found, dict) else None


def _headline(run: dict[str, Any]) -> str:
    said = [
        ("model", _value(run, "model", "preset") or _value(run, "model", "family")),
        ("optimizer", _value(run, "optimizer", "name")),
        ("precision", _value(run, "train", "precision")),
        ("global batch", _value(run, "train", "global_batch_size")),
        ("sequence length", _value(run, "train", "seq_length")),
        ("seed", _value(run, "run", "seed")),
    ]
    return " · ".join(f"{name} {value}" for name, value in said if value is not None)


def _results(run: dict[str, Any], measured: Sequence[Row]) -> list[Node]:
    if not measured:
        return [node("p", "No step has finished yet: metrics.jsonl holds no row.")]
    vocab_size = _value(run, "model", "vocab_size")
    has_tasks = any(key.startswith(TASK) for key in measured[0])
    guess = math.log(vocab_size) if isinstance(vocab_size, int) and vocab_size > 1 and not has_tasks else None
    level = None if guess is None else (guess, f"ln({vocab_size:,}) = {guess:.2f}, a uniform guess")
    charts = [
        Chart("Loss", _losses(measured), level=level, size=WIDE),
        *_of_tasks(measured),
        Chart("Gradient norm before clipping", [_series(measured, "grad_norm", "gradient norm")], may_be_log=True),
        Chart("Learning rate", [_series(measured, "lr", "learning rate")], from_zero=True),
        Chart("Throughput, tokens/s", [_series(measured, "tokens_per_s", "tokens/s")], from_zero=True),
    ]
    return [_tiles(run, measured, level), node("div", *(chart.figure() for chart in charts), class_="charts")]


def _series(measured: Sequence[Row], key: str, name: str) -> Series:
    return Series(name, [(row["step"], row[key]) for row in measured])


def _losses(measured: Sequence[Row], of: str = "") -> list[Series]:
    key = f"{of}val_loss"
    evaluated = [(row["step"], row[key]) for row in measured if key in row]
    validation = [Series("validation", evaluated, marked=True)] if evaluated else []
    return [_series(measured, f"{of}loss", "training"), *validation]


def _of_tasks(measured: Sequence[Row]) -> list[Chart]:
    """Return a chart of the losses of each task, where a run has several."""
    keys = [key for key in measured[0] if key.startswith(TASK) and key.endswith("/loss")]
    return [Chart(f"Loss of the task {key.split('/')[1]}", _losses(measured, key.removesuffix("loss"))) for key in keys]


def _tiles(run: dict[str, Any], measured: Sequence[Row], level: tuple[float, str] | None) -> Node:
    steps = _value(run, "train", "steps")
    last = measured[-1]
    tiles = [("Steps", f"{last['step']:,}" + (f" of {steps:,}" if isinstance(steps, int) else ""), "")]
    evaluated = [row for row in measured if row.get("val_loss") is not None]
    if evaluated:
        first, final = evaluated[0], evaluated[-1]
        where = f"first at step {first['step']:,}, last at step {final['step']:,}"
        names = {"val_loss": "Validation loss", "val_accuracy": "Accuracy", "val_f1": "Macro F1"}
        for key in held_out(first):
            *of_task, name = key.removeprefix(TASK).split("/")
            if final.get(key) is not None:
                tiles.append((": ".join([*of_task, names[name]]), f"{first[key]:.4f} → {final[key]:.4f}", where))
    losses = [row["loss"] for row in measured if row["loss"] is not None]
    if losses:
        tiles.append(("Training loss", f"{losses[0]:.4f} → {losses[-1]:.4f}", "first and last update"))
    if level:
        tiles.append(("Uniform guess", f"{level[0]:.4f}", level[1].partition(" =")[0]))
    tiles.append(("Tokens", f"{last['tokens']:,}", ""))
    for key, name, form in (
        ("tokens_per_s", "Tokens/s", ",.0f"),
        ("step_time_s", "Seconds a step", ".3g"),
        ("mfu", "MFU", ".1%"),
    ):
        known = [row[key] for row in measured if row[key] is not None]
        if known:
            tiles.append((name, format(statistics.median(known), form), "median over the updates"))
    memory = [row["memory_gib"] for row in measured if row["memory_gib"] is not None]
    if memory:
        tiles.append(("Peak memory", f"{max(memory):.2f} GiB", "of the rank that writes the metrics"))
    broken = sum(bool(row.get("non_finite")) for row in measured)
    if broken:
        tiles.append(("Non-finite updates", f"{broken:,}", "gaps in the lines"))
    return node(
        "dl",
        *(
            node("div", node("dt", name), node("dd", value, *([node("small", note)] if note else [])))
            for name, value, note in tiles
        ),
        class_="tiles",
    )


def _communication(path: Path) -> list[Node]:
    """Return the table of a run's collectives, bookkeeping scalars apart, when the run counted them."""
    if not path.exists():
        return []
    heading = node("h2", "Communication")
    try:
        counted = json.loads(path.read_text(encoding="utf-8"))
        said = "The collectives of one step, as the rank that writes the metrics made them."
        found = [heading, node("p", said if counted else "A step calls no collective: one process has no one to ask.")]
        for scalar, name in ((False, "Tensors of the model"), (True, "Bookkeeping scalars")):
            part = [entry for entry in counted if entry["scalar"] == scalar]
            if part:
                found += [node("h3", name), _communication_table(part)]
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [heading, node("p", f"{path.name} could not be read ({type(error).__name__}: {error}).")]


def _communication_table(part: list[dict[str, Any]]) -> Node:
    body = [
        [
            entry["kind"],
            entry["axis"],
            entry["dtype"],
            f"{entry['calls']:,}",
            size_text(entry["payload"]),
            size_text(entry["volume"]),
        ]
        for entry in part
    ]
    total = {key: sum(entry[key] for entry in part) for key in ("calls", "payload", "volume")}
    body.append(["all", "", "", f"{total['calls']:,}", size_text(total["payload"]), size_text(total["volume"])])
    return table(["collective", "axis", "dtype", "calls", "payload", "volume"], body)
