"""What the app says, by key and language: `_("run")` for a label, `text("run", "ko")` for a plain string.

The files in locales/ are flat: key to text, with `{name}` where a value goes. Browsers choose the language; the same
files are read there by static/app.js for what is drawn without Gradio.
"""

import json
from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent / "locales"
LOCALES: dict[str, dict[str, str]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))
}
I18N = gr.I18n(**LOCALES)


def _(key: str) -> str:
    """A label in the reader's language, for any Gradio component; a test holds every key used to the files."""
    return I18N(key)  # type: ignore[return-value]  # Gradio takes it where it takes a string


def text(key: str, language: str = "en", /, **values: object) -> str:
    """The text of a key with its values put in; English where the language is not one of ours."""
    return LOCALES.get(language, LOCALES["en"]).get(key, key).format(**values)


def language(accepted: str | None) -> str:
    """The first of our languages in an Accept-Language header."""
    for item in (accepted or "").split(","):
        name = item.split(";")[0].strip().split("-")[0].lower()
        if name in LOCALES:
            return name
    return "en"
