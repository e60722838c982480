"""The house rules of ARCHITECTURE.md as functions: each reads the sources and returns one line for every breach.

Nothing is imported here but the standard library, and nothing of the sources is run.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FLOORS = (
    ("errors", "section", "registry", "extras", "run_file", "overrides", "validation", "not_built", "whole_text"),
    ("layout",),
    (
        *("boxes", "param_spec", "parameters", "batch", "rng", "ledger", "mesh", "collectives", "recompute"),
        *("host", "saved_tensors", "watch", "weight_half", "kv_cache"),
    ),
    ("parallel", "data", "checkpoint"),
    ("models", "objectives", "optim", "layers"),
    ("run_config",),
    ("launcher", "plan"),
    ("training", "hugging_face"),
    ("verify", "generation"),
    ("",),
    ("doctor", "doctor_checks", "doctor_rank", "cli", "__main__"),
)
"""From the ground up: a module imports from its own floor and from below. "" is the package itself, the public door."""

STRANGERS = ("parallel.tensor", "parallel.pipeline", "parallel.data", "data", "checkpoint")
"""The engines and stores, which do not know one another; what they share lies below them."""

PAPER = (
    *(
        "megalm",
        "megalm.errors",
        "megalm.section",
        "megalm.registry",
        "megalm.layout",
        "megalm.boxes",
        "megalm.param_spec",
    ),
    *(f"megalm.watch.{name}" for name in ("lane", "marker", "place", "position", "processes")),
    *("megalm.ledger", "megalm.run_config", "megalm.models.presets", "megalm.models.counts"),
    "megalm.plan.rank_memory",
    *("megalm.plan.communication", "megalm.plan.schedule_view", "megalm.plan.stages", "megalm.training.timeline"),
    *("megalm.optim.blocks", "megalm.plan.memory", "megalm.plan.quantized"),
    *(f"megalm.parallel.pipeline.{name}" for name in ("action", "program", "needs", "schedules", "v_schedules")),
    *(f"megalm.parallel.pipeline.{name}" for name in ("schedule", "lower", "check", "clock", "draw")),
)
"""What the planner reads: none of it, nor anything that it imports, imports torch."""

DISTRIBUTED = (
    *("collectives", "mesh", "launcher.ranks", "launcher.torchrun.spare", "launcher.torchrun.rendezvous", "checkpoint"),
    *("launcher.torchrun.agent", "doctor_checks", "training.backends"),
)
"""Who may see torch.distributed: to communicate (only the first), make groups, start, store, ask, or hand over."""

COMMUNICATION = (
    *("all_reduce", "all_gather", "all_to_all", "reduce", "reduce_scatter", "broadcast", "scatter", "gather"),
    *("send", "recv", "isend", "irecv", "batch_isend_irecv", "barrier", "monitored_barrier"),
)

EXTRAS = (
    "deepspeed",
    "fairscale",
    "mpi4py",
    "wandb",
    "tensorboard",
    "torch.utils.tensorboard",
    "megatron",
    "transformers",
)
"""Optional packages: imported where they are asked for, never when a module loads."""

WHOLE = ("cluster", "cuda", "transparency")
"""Folders of tests that are about all parts together."""

CATCH_ALLS = ("utils", "util", "helpers", "helper", "misc", "common")
MAX_LINES = 400
UNFINISHED = ("TODO", "FIXME", "XXX", "NotImplementedError")
CONTAINERS = ("dict", "list", "set", "defaultdict", "Counter", "deque", "OrderedDict", "WeakKeyDictionary")
MUTATORS = ("append", "extend", "add", "update", "pop", "popitem", "setdefault", "clear", "insert", "remove", "discard")


@dataclass(frozen=True)
class Source:
    """One file: its dotted name inside the package (``parallel.tensor.linear``; "" for the package), text and tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether it is an ``__init__.py``."""
        return self.path.name == "__init__.py"


def read(folder: Path) -> list[Source]:
    """Read every Python file under ``folder``."""
    sources = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        text = path.read_text()
        sources.append(Source(name, path, text, ast.parse(text)))
    return sources


def imports(node: ast.AST) -> Iterator[str]:
    """Yield what is imported anywhere below ``node``, each as ``module`` and, of ``from``, also ``module.name``."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def within(name: str, package: str) -> bool:
    """Tell whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(package + ".")


def inner_imports(source: Source, sources: Sequence[Source]) -> set[str]:
    """Return the names of the package's own modules that ``source`` imports."""
    known = {other.name for other in sources}
    found = set()
    for target in imports(source.tree):
        if within(target, "megalm"):
            name = target.removeprefix("megalm").removeprefix(".")
            while name not in known:
                name = name.rpartition(".")[0]
            found.add(name)
    return found - {source.name}


def floor(name: str) -> int | None:
    """Return the floor on which a module lives; a part's config class lies with the run file, which is made of them."""
    if name.endswith("config") and name.startswith("training."):
        name = "run_config"
    return next((level for level, names in enumerate(FLOORS) if name.partition(".")[0] in names), None)


def imports_point_down(sources: Sequence[Source]) -> list[str]:
    """No module imports from a floor above its own, and every module has a floor."""
    breaches = []
    for source in sources:
        level = floor(source.name)
        if level is None:
            breaches.append(f"{source.name} has no floor")
            continue
        for target in sorted(inner_imports(source, sources)):
            if (target_level := floor(target)) is not None and target_level > level:
                breaches.append(f"{source.name} imports {target}, which is above it")
    return breaches


def engines_are_strangers(sources: Sequence[Source]) -> list[str]:
    """No engine or store imports another; they are put together above."""
    return [
        f"{source.name} imports {target}"
        for source in sources
        for home in STRANGERS
        if within(source.name, home)
        for target in sorted(inner_imports(source, sources))
        if any(other != home and within(target, other) for other in STRANGERS)
    ]


def no_circles(sources: Sequence[Source]) -> list[str]:
    """Taking away, again and again, the modules that import nothing left leaves nothing."""
    left = {source.name: inner_imports(source, sources) for source in sources}
    while ready := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ready:
            del left[name]
    return [f"{name} is in a circle, or above one: it imports {sorted(left[name] & left.keys())}" for name in left]


def torch_distributed_stays_below(sources: Sequence[Source]) -> list[str]:
    """Only collectives communicates; only those who make, start or store groups see torch.distributed at all."""
    breaches = []
    for source in sources:
        if source.name == "collectives":
            continue
        seen = any(within(target, "torch.distributed") for target in imports(source.tree))
        if not any(within(source.name, allowed) for allowed in DISTRIBUTED):
            seen = seen or any(ast.unparse(node) == "torch.distributed" for node in attributes(source.tree))
            if seen:
                breaches.append(f"{source.name} uses torch.distributed")
        elif seen:
            breaches += [f"{source.name} communicates: {ast.unparse(node)}" for node in communication(source.tree)]
    return breaches


def attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield every ``a.b`` below ``tree``."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def communication(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield the calls of torch.distributed that communicate, under the names by which it is imported."""
    for node in attributes(tree):
        plain = node.attr.removesuffix("_into_tensor").removesuffix("_tensor").removesuffix("_single")
        if (
            ast.unparse(node.value) in ("dist", "distributed", "torch.distributed")
            and plain.removesuffix("_object") in COMMUNICATION
        ):
            yield node


def extras_load_when_asked(sources: Sequence[Source]) -> list[str]:
    """No optional package is imported by the loading of a module."""
    return [
        f"{source.name} imports {target} when it loads"
        for source in sources
        for statement in source.tree.body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for target in imports(statement)
        if any(within(target, extra) for extra in EXTRAS)
    ]


def no_module_state(sources: Sequence[Source]) -> list[str]:
    """No ``global``, no container that starts empty or is changed by a function, no cached function of nothing."""
    breaches = []
    for source in sources:
        names = {name for statement in source.tree.body for name in assigned(statement)}
        breaches += [
            f"{source.name}: {name} starts empty, to be filled later"
            for statement in source.tree.body
            if isinstance(statement, ast.Assign | ast.AnnAssign) and is_empty_container(statement.value)
            for name in assigned(statement)
        ]
        for function in ast.walk(source.tree):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if any(isinstance(node, ast.Global) for node in ast.walk(function)):
                breaches.append(f"{source.name}: {function.name} has a global statement")
            inner = {name for node in ast.walk(function) for name in assigned(node)}
            outer = names - inner - {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
            breaches += [f"{source.name}: {function.name} changes {name}" for name in sorted(changed(function) & outer)]
            cached = any("cache" in ast.unparse(decorator) for decorator in function.decorator_list)
            takes = function.args
            if cached and not (takes.args or takes.posonlyargs or takes.kwonlyargs or takes.vararg or takes.kwarg):
                breaches.append(f"{source.name}: {function.name} caches one object for all")
    return breaches


def assigned(node: ast.AST) -> list[str]:
    """Return the plain names that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_empty_container(value: ast.expr | None) -> bool:
    """Tell whether a value is a mutable container without content."""
    if isinstance(value, ast.Call):
        return ast.unparse(value.func).rpartition(".")[2] in CONTAINERS and not value.args
    return (isinstance(value, ast.Dict) and not value.keys) or (isinstance(value, ast.List) and not value.elts)


def changed(function: ast.AST) -> set[str]:
    """Return the plain names whose content a function changes in place."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(ast.unparse(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            names.add(ast.unparse(node.func.value))
    return names


def files_are_small_and_named(sources: Sequence[Source]) -> list[str]:
    """No file is over the limit, none is a catch-all by its name, none says that it is unfinished."""
    breaches = []
    for source in sources:
        if (lines := source.text.count("\n")) > MAX_LINES:
            breaches.append(f"{source.path.name} has {lines} lines; {MAX_LINES} are allowed")
        if any(part in CATCH_ALLS for part in source.name.split(".")):
            breaches.append(f"{source.name} is named for no idea")
        breaches += [f"{source.name} has a {word}" for word in UNFINISHED if word in source.text]
    return breaches


def packages_hold_a_docstring(sources: Sequence[Source]) -> list[str]:
    """An ``__init__.py`` below the package's own says what lives there, and nothing else."""
    return [
        f"{source.name}/__init__.py must hold a docstring only"
        for source in sources
        if source.is_package
        and source.name
        and not (len(source.tree.body) == 1 and ast.get_docstring(source.tree, clean=False))
    ]


def tests_name_their_oracle(tests: Sequence[Source]) -> list[str]:
    """The first words of a test file say what it is judged by."""
    return [
        f"{test.name} does not name its oracle"
        for test in tests
        if test.path.name.startswith("test_") and not (ast.get_docstring(test.tree) or "").startswith("Oracle: ")
    ]


def tests_mirror_modules(tests: Sequence[Source], root: Path) -> list[str]:
    """A test in a folder is about the folder of the same name: it has a module's name, or imports from there."""
    breaches = []
    for test in tests:
        folder, _, name = test.name.rpartition(".")
        if not folder or folder in WHOLE or not name.startswith("test_"):
            continue
        homes = [base / folder.replace(".", "/") for base in (root / "megalm", root)]
        named = any(path.stem == name.removeprefix("test_") for home in homes for path in home.glob("*"))
        if not named and not any(within(target, f"megalm.{folder}") for target in imports(test.tree)):
            breaches.append(f"tests/{folder}/{name}.py mirrors no module of {folder} and imports none")
    return breaches
