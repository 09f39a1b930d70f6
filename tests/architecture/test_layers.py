"""Who may import whom: one rule over every module of `pruning/`, `viz/` and `app/`, and no import circle."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGES = ("pruning", "viz", "app")
# The layers of `pruning/`, lowest first. A module imports its own unit and lower layers; units of one layer (a loose
# module or a package directly under `pruning/`) do not import each other, save the two lowest layers of loose modules.
LAYERS = [
    "errors shapes checkpoints",
    "interface layout budget parameters ops",
    "inputs",
    "records",
    "cost",
    "metrics",
    "methods structural compensation models",
    "engine arrays catalogue",
    "benchmarks evaluation",
    "demo_model",
    "cli",
    "__main__ old_names",
]
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units.split()}
SHARED_VOCABULARY = 1  # up to this layer the loose modules may name each other; circles are refused below all the same


def modules() -> dict[str, Path]:
    """Every module by its dotted name; a package is named as its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules of this project that a file imports anywhere; `at_import`: only those that importing it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree)
    if at_import:
        nodes = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] in PACKAGES}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            found |= {full if (full := f"{node.module}.{a.name}") in MODULES else node.module for a in node.names}
    return found


def unit(module: str) -> str:
    """The loose module or package directly under `pruning/` that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_the_rule_names_every_module_and_every_module_has_a_layer():
    units = {unit(m) for m in MODULES if m.split(".")[0] == "pruning"} - {"__init__"}
    assert units <= set(RANK)
    assert not set(RANK) - units - {"evaluation"}, "a layer names something that is not there"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("pruning.")])
def test_a_module_imports_its_own_package_and_lower_layers_only(module):
    mine = unit(module)
    for other in imported(MODULES[module]):
        assert other.split(".")[0] == "pruning", f"{module} imports {other}"
        theirs = unit(other)
        if theirs in ("__init__", mine):
            continue
        lower = RANK[theirs] < RANK[mine] or RANK[theirs] == RANK[mine] <= SHARED_VOCABULARY
        assert lower, f"{module} imports {other}, which is not below it"


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "viz"])
def test_drawing_reads_records_and_metrics(module):
    for other in imported(MODULES[module]):
        assert other.split(".")[0] in ("viz", "pruning"), f"{module} imports {other}"
        if other.startswith("pruning."):
            assert RANK[unit(other)] <= RANK["metrics"], f"{module} imports {other}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] == "app"])
def test_the_page_needs_neither_the_recipe_nor_the_command_line(module):
    for other in imported(MODULES[module]):
        assert unit(other) not in ("demo_model", "cli") or not other.startswith("pruning."), f"{module} imports {other}"


def test_there_is_no_import_circle():
    graph = {module: imported(path) & set(MODULES) - {module} for module, path in MODULES.items()}
    assert not circles(graph)


def test_a_circle_would_be_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, sorted."""

    def reached(start: str) -> set[str]:
        found, ahead = set(), list(graph[start])
        while ahead:
            here = ahead.pop()
            if here not in found:
                found.add(here)
                ahead += graph.get(here, ())
        return found

    reach = {module: reached(module) for module in graph}
    groups = {tuple(sorted(n for n in reach[m] | {m} if m in reach.get(n, ()))) for m in graph if m in reach[m]}
    return sorted(map(list, groups))


def test_few_modules_lie_loose():
    assert len(list((ROOT / "pruning").glob("*.py"))) <= 12
    assert len(list((ROOT / "app").glob("*.py"))) <= 9


LIGHT = [
    ("pruning", ("torch", "transformers", "numpy")),
    *((m, ("torch", "transformers", "gradio", "cv2")) for m in MODULES if m.startswith("pruning.records")),
    *((m, ("torch", "transformers", "gradio")) for m in MODULES if m.split(".")[0] == "viz"),
    ("pruning.cli.parser", ("transformers", "gradio", "cv2", "pruning.demo_model")),
    ("pruning.engine.run", ("gradio", "plotly", "matplotlib")),
    ("app.main", ("gradio", "torch", "transformers")),
    ("pruning.models", ("torch", "transformers")),
    ("pruning.inputs.images", ("torch",)),
]


def test_fresh_imports_stay_light():
    """One process for all of them would hide what an earlier one loaded; a process each would take a minute."""
    code = (
        "import json, os, sys\n"
        "for module, absent in json.loads(sys.argv[1]):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        __import__(module)\n"
        "        loaded = [m for m in absent if m in sys.modules]\n"
        "        if loaded: print(module, 'loads', *loaded, flush=True)\n"
        "        os._exit(0)\n"
        "    if os.waitpid(pid, 0)[1]: print(module, 'does not import', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(LIGHT)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert not done.stdout, done.stdout + done.stderr
    assert not done.returncode, done.stderr


def test_only_the_models_and_the_recipe_know_transformers():
    for module, path in MODULES.items():
        if {"models", "demo_model"} & set(module.split(".")):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
        assert not any(n.split(".")[0] == "transformers" for n in names), module


def test_the_page_imports_without_a_model_and_without_network():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "from app.page import build_page; from app.serving.service import Service; from app.settings import Settings\n"
        "import sys; build_page(Service(Settings())); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "False", done.stdout + done.stderr


def test_app_is_a_package():
    assert (ROOT / "app" / "__init__.py").exists()
    assert len((ROOT / "app.py").read_text().splitlines()) < 10
