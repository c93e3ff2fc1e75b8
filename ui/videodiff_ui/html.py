"""The one place that builds HTML. Everything that is not markup is escaped, whoever wrote it.

`tag("p", "a < b", class_="vd-note")` is `<p class="vd-note">a &lt; b</p>`. Children are text, numbers, None (left out)
or the `Html` of another `tag`; only this module makes `Html`. Attributes: a trailing underscore is dropped, others
become hyphens, True is a bare attribute, False and None leave it out.
"""

import json
import re
from base64 import b64encode
from html import escape

from videodiff_ui import words

VOID = {"br", "hr", "img", "input", "source", "track"}
"""Elements without an end tag."""
REFUSED = {"script", "style", "iframe", "object", "embed", "link", "meta", "base"}
"""Elements no page has a use for: code and style are static files."""
URLS = {"src", "href", "poster"}
_NAME = re.compile(r"[a-z][a-z0-9-]*")


class Html(str):
    """Markup made by this module; any other string is text."""

    __slots__ = ()


def tag(name: str, *children: "Html | str | int | float | None", **attributes: str | int | float | bool | None) -> Html:
    """One element. Text and attribute values are escaped; names are checked; script addresses are refused."""
    assert _NAME.fullmatch(name), name
    assert name not in REFUSED, name
    written = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        assert _NAME.fullmatch(key), key
        assert not key.startswith("on"), f"{key}: behaviour belongs into static/"
        if value is None or value is False:
            continue
        if key in URLS:
            _check_address(str(value))
        written.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    if name in VOID:
        assert not children, name
        return Html(opening)
    return Html(f"{opening}{join(*children)}</{name}>")


def join(*children: "Html | str | int | float | None") -> Html:
    """Several children side by side, without an element around them."""
    return Html(
        "".join(child if isinstance(child, Html) else escape(str(child)) for child in children if child is not None)
    )


def word(key: str, **values: str | int | float) -> Html:
    """A translated text: English here, the reader's language as soon as static/app.js sees it."""
    data = json.dumps(values, ensure_ascii=False) if values else None
    return tag("span", words.text(key, "en", **values), data_word=key, data_values=data)


def term(kind: str, name: str) -> Html:
    """What a name of the library is called, such as a baseline of a report; the name itself where no text has it."""
    key = f"{kind}.{name}"
    return word(key) if key in words.LOCALES["en"] else tag("bdi", name)


def message(text: str) -> Html:
    """A message of the library, which static/app.js says in the reader's language; a name in it stays as it is."""
    return tag("span", words.plain(text), data_message=text)


def picture(jpeg: bytes | None, alt: str, **attributes: str | int | bool | None) -> Html:
    """A picture inside the page itself, so that no file is left in a cache; nothing where there is none."""
    if jpeg is None:
        return Html("")
    return tag("img", src=f"data:image/jpeg;base64,{b64encode(jpeg).decode()}", alt=alt, **attributes)


def _check_address(address: str) -> None:
    """Only files of this server and pictures or clips given as data."""
    scheme = address.split(":", 1)[0].strip().lower() if ":" in address else ""
    allowed = address.startswith(("/", "./", "#")) and not address.startswith("//")
    assert allowed or (scheme == "data" and address.startswith(("data:image/", "data:video/"))), address
