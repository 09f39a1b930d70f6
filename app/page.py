"""The page: header, tabs, look."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from app import messages
from app.api import build_api
from app.handlers.explore import Handlers
from app.handlers.structure import Planning
from app.media.examples import read_examples
from app.serving.service import Service
from app.ui.components import shared_script
from app.ui.tabs.explore import OPENING, build_explore
from app.ui.tabs.measured import build_measured
from app.ui.tabs.structure import build_structure
from viz.theme import css_variables

STYLE = Path(__file__).parents[1] / "assets" / "style.css"
HEADER = f"""<header class="ps-top"><h1>{messages.TITLE}</h1><p>{messages.TAGLINE}</p>
<button type="button" class="ps-theme" aria-label="Light or dark">◐</button></header>"""
THEME_SWITCH = (
    """element.querySelector('.ps-theme').addEventListener('click', () => document.body.classList.toggle('dark'));"""
)


def build_page(service: Service) -> gr.Blocks:
    """Compose the page around a service; nothing is loaded and nothing runs yet."""
    examples = read_examples()
    uploads = Path(gr.utils.get_upload_folder())
    handlers = Handlers(service, examples, examples[0].recording(*OPENING).layout.n_tokens, uploads)
    planning = Planning(handlers)
    with gr.Blocks(title=messages.TITLE, analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.HTML(html_template=HEADER, js_on_load=THEME_SWITCH, apply_default_css=False, elem_id="top")
        with gr.Tabs():
            with gr.Tab("Explore"):
                exploring = build_explore(page, handlers, service.settings)
            with gr.Tab("Weight pruning") as structure:
                build_structure(structure, planning, exploring)
            with gr.Tab("Benchmarks"):
                build_measured()
        build_api(handlers, planning)
    return page


def appearance() -> dict[str, object]:
    """Arguments of `launch` that concern appearance. Fonts are the visitor's own: none is fetched."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=sans,
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css_paths": [STYLE], "head": f"<style>{css_variables()}</style>{shared_script()}"}
