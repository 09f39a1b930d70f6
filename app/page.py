"""Compose the page: header, tabs and appearance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from app import messages
from app.api import build_api
from app.handlers.explore import Handlers
from app.media.examples import read_examples
from app.panels import PANELS
from app.serving.service import Service
from app.ui.components import colour_variables, shared_script, static_component
from app.ui.glossary import read_glossary
from app.ui.panel import PageContext, Panel
from app.ui.tabs.explore import OPENING, build_explore
from app.ui.tabs.structure import WEIGHT_PRUNING

STYLE = Path(__file__).parents[1] / "assets" / "style.css"
GLOSSARY_LINK = '<button type="button" class="ps-glossary">Glossary</button>\n' if read_glossary() else ""
HEADER = f"""<header class="ps-top"><h1>{messages.TITLE}</h1><p>{messages.TAGLINE}</p>
{GLOSSARY_LINK}<button type="button" class="ps-theme" aria-label="Light or dark">◐</button></header>"""
HEADER_SCRIPT = """const $ = (s) => element.querySelector(s);
$('.ps-theme').addEventListener('click', () => document.body.classList.toggle('dark'));
$('.ps-glossary')?.addEventListener('click', () => window.prunescope.emit('glossary'));"""


def build_page(service: Service, panels: Sequence[Panel] = PANELS) -> gr.Blocks:
    """Compose the page from Explore and its panels, around a service. Nothing is loaded and nothing runs yet."""
    examples = read_examples()
    uploads = Path(gr.utils.get_upload_folder())
    payloads = {panel.key: panel.payload for panel in panels if panel.payload is not None}
    handlers = Handlers(service, examples, examples[0].recording(*OPENING).layout.n_tokens, uploads, payloads)
    with gr.Blocks(title=messages.TITLE, analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.HTML(html_template=HEADER, js_on_load=HEADER_SCRIPT, apply_default_css=False, elem_id="top")
        static_component("glossary", elem_id="glossary")
        with gr.Tabs():
            with gr.Tab("Explore"):
                explore, below = build_explore(page, handlers, service.settings, panels)
            context = PageContext(service, examples, handlers.runs, explore)
            made = {panel.key: panel.handlers(context) for panel in panels}
            for panel in panels:
                if panel.title:
                    with gr.Tab(panel.title) as tab:
                        panel.build(tab, made[panel.key], context)
                else:
                    panel.build(below[panel.key], made[panel.key], context)
        build_api(handlers, made[WEIGHT_PRUNING.key])
    return page


def appearance() -> dict[str, object]:
    """Return the arguments of `launch` for appearance. Fonts are the visitor's own: none is fetched."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=sans,
        font_mono=["ui-monospace", "monospace"],
    )
    return {"theme": theme, "css_paths": [STYLE], "head": colour_variables() + shared_script()}
