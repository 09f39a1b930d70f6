"""The rules of the house that a reader could break without noticing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from pruning.compensation import COMPENSATORS
from pruning.interface import Signal
from pruning.methods import FROM_FILES, METHODS
from pruning.models import MODELS
from pruning.parameters import Choice, Param

ROOMS = ("app", "pruning", "viz")
SOURCES = [p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))]
FORBIDDEN = {
    "pruning": {"gradio", "plotly", "matplotlib", "viz", "app"},
    "viz": {"torch", "transformers", "gradio", "app"},
}
DOCSTRING_LINES = ("Paper:", "Stage:", "Needs:", "Symbols:", "Differs:", "Cost:")


def imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_their_door_allows(room):
    for path in (ROOT / room).rglob("*.py"):
        wrong = {i for i in imports(path) if i.split(".")[0] in FORBIDDEN[room]}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_methods_and_models_do_not_know_each_other():
    pairs = [("methods", "models"), ("structural", "models"), ("methods", "compensation"), ("methods", "structural")]
    for one, other in pairs + [(b, a) for a, b in pairs] + [("models", "compensation")]:
        for path in (ROOT / "pruning" / one).glob("*.py"):
            assert not any(i.startswith(f"pruning.{other}") for i in imports(path)), path.name


def test_the_recipe_is_not_needed_by_anything_that_runs():
    """One file may open it, for calibrating, training and judging; nothing that the page or a run needs leads there."""
    door = ROOT / "pruning" / "drawn.py"
    for path in SOURCES:
        if path.name not in ("structural_cli.py", "structural_bench.py"):
            assert "pruning.demo_model.pairs" not in imports(path), path
        if "demo_model" not in path.parts and path != door and path.name != "compensation_cli.py":  # train-accm
            assert not any(i.startswith("pruning.demo_model") for i in imports(path)), path


def test_only_the_models_room_and_the_recipe_know_transformers():
    for path in SOURCES:
        if {"models", "demo_model"} & set(path.parts) or path.name == "machine.py":  # which writes down its version
            continue
        assert not any(i.split(".")[0] == "transformers" for i in imports(path)), path


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("pruning.records.run", ("torch", "transformers", "gradio", "cv2")),
        ("pruning.records.plan", ("torch", "transformers", "gradio", "cv2")),
        ("pruning.cli.parser", ("transformers", "gradio", "cv2", "pruning.demo_model")),
        ("viz.page.run", ("torch", "transformers", "gradio")),
        ("pruning.engine.run", ("gradio", "plotly", "matplotlib")),
        ("app.main", ("gradio", "torch", "transformers")),
        ("pruning.models", ("transformers",)),
        ("pruning.inputs.images", ("torch",)),
    ],
)
def test_a_fresh_import_stays_light(module, absent):
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_page_imports_without_a_model_and_without_network(tmp_path):
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
    assert not any("app.py" in i for p in SOURCES for i in imports(p))


def test_the_table_of_methods_is_complete():
    skipped = {"__init__", "base", "staged"}
    files = {p.stem for p in (ROOT / "pruning" / "methods").glob("*.py")} - skipped
    assert files == set(METHODS) | set(FROM_FILES)
    for key, method in METHODS.items():
        assert method.key == key
        assert method.paper.startswith("https://")
        assert method.needs <= set(Signal)
        assert 3 <= len(method.idea.split()) <= 9
        assert method.default_positions in ("original", "renumbered")
        for declared in method.parameters().values():
            assert isinstance(declared, Param | Choice)
            assert declared.help.endswith(".")


@pytest.mark.parametrize("key", [*METHODS, *FROM_FILES])
def test_every_method_explains_itself_in_the_same_lines(key):
    text = ast.get_docstring(ast.parse((ROOT / "pruning" / "methods" / f"{key}.py").read_text()))
    lines = text.splitlines()
    assert lines[0].endswith((".", ":", "beat."))
    found = [w for line in lines for w in DOCSTRING_LINES if line.startswith(w)]
    assert found == list(DOCSTRING_LINES)


def test_the_table_of_compensators_is_complete():
    parts = {"__init__", "base", "beam", "captioner", "objective", "selector", "storage", "wording"}
    files = {p.stem for p in (ROOT / "pruning" / "compensation").glob("*.py")} - parts
    assert files == {c.__module__.rsplit(".", 1)[1] for c in COMPENSATORS.values()}
    for key, compensator in COMPENSATORS.items():
        assert compensator.key == key
        assert compensator.paper.startswith("https://")
        assert 3 <= len(compensator.idea.split()) <= 9
        module = compensator.__module__.rsplit(".", 1)[1]
        text = ast.get_docstring(ast.parse((ROOT / "pruning" / "compensation" / f"{module}.py").read_text()))
        found = [w for line in text.splitlines() for w in DOCSTRING_LINES if line.startswith(w)]
        assert found == list(DOCSTRING_LINES)


def test_numbers_of_geometry_belong_to_the_adapter():
    """No model's grid is written into the engine, the drawing or the page."""
    for path in SOURCES:
        if "demo_model" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and type(node.value) is int:
                assert node.value not in (576, 577, 2880, 336), f"{path}:{node.lineno}"
    for path in (ROOT / "app" / "components").rglob("*.js"):
        assert "576" not in path.read_text(), path


def test_nothing_a_person_or_a_model_wrote_becomes_markup():
    for path in (ROOT / "app").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, f"{path.name} uses {word}"
    for path in (ROOT / "app" / "components").rglob("*.html"):
        assert not re.search(r"\$\{|\{\{", path.read_text()), f"{path.name} is not static"


def test_no_foreign_address_is_loaded():
    for path in [*(ROOT / "app").rglob("*.*"), ROOT / "assets" / "style.css"]:
        if path.suffix in (".js", ".css", ".html"):
            assert "http" not in path.read_text(encoding="utf-8"), path


def test_files_stay_readable():
    for path in SOURCES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, f"{path} has grown; is the design wrong?"


def test_the_example_pictures_have_truth_and_recordings():
    from app.media.examples import read_examples

    for example in read_examples():
        assert example.picture.shape[:2] == example.object_map.shape
        record = example.recording("resprune", 64)
        assert set(example.recorded_stops) == set(METHODS)
        assert record.request.question == example.questions[0].text
        for question in example.questions:
            evidence = example.evidence(question.text, record.layout)
            assert len(evidence) > 0, (example.key, question.text)
        assert example.evidence("Something else?", record.layout) is None


def test_every_file_of_assets_has_a_source():
    listed = (ROOT / "assets" / "SOURCES.md").read_text()
    tracked = subprocess.run(["git", "ls-files", "assets"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for name in tracked.split():
        folder = name.removeprefix("assets/").rsplit("/", 1)[0]
        assert f"`{folder}/`" in listed or f"`{name.removeprefix('assets/')}`" in listed, name


def test_requirements_hold_what_is_imported():
    names = {"gradio", "torch", "transformers", "matplotlib", "plotly", "opencv-python-headless", "numpy", "pillow"}
    text = (ROOT / "requirements.txt").read_text()
    assert all(re.search(rf"^{n}[=<>]", text, re.M) for n in names)
    assert "torch==2.13.0" in text


def test_models_of_the_table_name_what_they_take():
    for key, spec in MODELS.items():
        assert spec.key == key
        assert spec.licence
        assert "GB" in spec.memory


def test_the_card_beside_the_weights_is_about_these_weights():
    import hashlib

    folder = ROOT / "assets" / "models" / "demo"
    card = (folder / "README.md").read_text()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card
    assert (folder / "model.safetensors").stat().st_size <= 25e6
    results = json.loads((ROOT / "assets" / "benchmarks" / "demo_model.json").read_text())
    assert results["weights"] == digest
    assert f"{100 * results['full']['exact_match']['value']:.1f}" in card
