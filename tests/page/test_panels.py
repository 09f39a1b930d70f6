"""The contract of a panel: its payload reaches the browser with every run, and the page is made from the list."""

from __future__ import annotations

import gradio as gr
import pytest

from app.handlers.explore import Handlers
from app.media.examples import read_examples
from app.page import build_page
from app.panels import PANELS
from app.serving.service import Service
from app.settings import Settings
from app.ui.components import FOLDER
from app.ui.panel import Panel
from support.visitor import save


@pytest.fixture
def handlers(tmp_path):
    payloads = {"n_kept": lambda record: len(record.kept)}
    return Handlers(Service(Settings()), read_examples(), 576, tmp_path, payloads)


def test_a_payload_comes_with_every_recorded_run_and_goes_with_a_new_picture(handlers, tmp_path):
    *_, run = handlers.open_example(0, "resprune", 64)
    assert run["n_kept"] == 64
    assert '"n_kept": 64' in handlers.recorded(0)
    *_, run, _ = handlers.bring([str(save(tmp_path / "mine.png"))], None, "me")
    assert run["n_kept"] is None


def test_the_page_has_a_tab_for_every_panel_with_a_title_and_a_component_for_the_others():
    extra = Panel(key="extra", title="Extra", build=lambda tab, handlers, context: gr.Markdown("nothing"))
    page = build_page(Service(Settings()), (*PANELS, extra))
    tabs = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert tabs == ["Explore", *(panel.title for panel in (*PANELS, extra) if panel.title)]
    ids = {block.elem_id for block in page.blocks.values()}
    assert all(panel.key in ids and (FOLDER / panel.component).is_dir() for panel in PANELS if not panel.title)
