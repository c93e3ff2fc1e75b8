"""What the app says, by key and language: `_("run")` for a label, `text("run", "ko")` for a plain string.

The files in locales/ are flat: key to text, with `{name}` where a value goes. Browsers choose the language; the same
files are read there by static/app.js for what is drawn without Gradio.

What explains the controls is English in the Settings models alone. Messages of the library are composed there: those in
locales/messages/ are patterns of them, by which the browser says them in its language (`html.message`).
"""

import json
import re
from pathlib import Path

import gradio as gr

from videodiff_ui.fields import helps

FOLDER = Path(__file__).parent / "locales"
LOCALES: dict[str, dict[str, str]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))
}


def plain(message: str, language: str = "en") -> str:
    """A message of the command in the words of the page: options become the names of their controls."""

    def named(match: re.Match[str]) -> str:
        label = LOCALES[language].get(f"field.{match[1].replace('-', '_')}")
        return f"“{label}”" if label else match[0]

    return re.sub(r"--([a-z][a-z-]*)", named, message)


def _explain(locales: dict[str, dict[str, str]]) -> None:
    """Put the help of the fields into English, unless the name says it all; in every language in the page's words."""
    names = {f"{text}." for key, text in locales["en"].items() if key.startswith("field.")}
    locales["en"] |= {key: said for key, said in helps().items() if said not in names}
    for language, texts in locales.items():
        texts |= {key: plain(said, language) for key, said in texts.items() if key.startswith("help.")}


_explain(LOCALES)
I18N = gr.I18n(**LOCALES)


def _(key: str) -> str:
    """A label in the reader's language, for any Gradio component; a test holds every key used to the files."""
    return I18N(key)  # type: ignore[return-value]  # Gradio takes it where it takes a string


def text(key: str, language: str = "en", /, **values: object) -> str:
    """The text of a key with its values put in; English where the language is not one of ours."""
    return LOCALES.get(language, LOCALES["en"]).get(key, key).format(**values)
