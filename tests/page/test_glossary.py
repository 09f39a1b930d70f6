"""The glossary of the page is docs/glossary.md, as text."""

from __future__ import annotations

from app.ui.components import shared_script
from app.ui.glossary import read_glossary


def test_terms_and_meanings_are_read_as_plain_text(tmp_path):
    path = tmp_path / "glossary.md"
    path.write_text(
        "# Words\n\nEach once.\n\n**visual token**: A row of `n`, a [patch](https://nowhere.test).\n"
        "**<b>markup</b>**: </script>\n",
        encoding="utf-8",
    )
    assert read_glossary(path) == {"visual token": "A row of n, a patch.", "<b>markup</b>": "</script>"}
    assert read_glossary(tmp_path / "missing.md") == {}


def test_the_script_of_the_page_holds_sentences_as_data():
    script = shared_script()
    assert "/* BROWSER */" not in script
    assert "/* GLOSSARY */" not in script
    assert script.count("</script>") == 3, "no text of a table ends its script"
