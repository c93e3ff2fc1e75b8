"""The card of a checkpoint, which anybody may have written, as markup: headings, lists, tables, code, paragraphs.

A small part of Markdown, built through html.py. Links and pictures stay text: a card makes no browser fetch a thing.
"""

import re
from collections.abc import Iterator

from videodiff_ui.cards import table
from videodiff_ui.html import Html, join, tag

_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]*)\]\([^)\s]*\)")


def render(text: str) -> Html:
    """The whole card without its front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return join(*_blocks(text.expandtabs(4).split("\n")))


def _blocks(lines: list[str]) -> Iterator[Html]:
    i = 0

    def run(test: str) -> list[str]:
        """The lines from here on that begin like this."""
        nonlocal i
        first = i
        while i < len(lines) and re.match(test, lines[i]):
            i += 1
        return lines[first:i]

    while i < len(lines):
        line = lines[i]
        if not line.strip():
            i += 1
        elif line.startswith("```"):
            i += 1
            code = run(r"(?!```)")
            i += 1
            yield tag("pre", "\n".join(code), tabindex="0")
        elif line.startswith("    "):
            yield tag("pre", "\n".join(row[4:] for row in run(r" {4}|\s*$(?!\Z)")).rstrip(), tabindex="0")
        elif heading := re.match(r"(#{1,6}) +(.*)", line):
            i += 1
            yield tag(f"h{min(6, len(heading[1]) + 2)}", inline(heading[2]))
        elif line.startswith("|"):
            rows = [[inline(cell.strip()) for cell in row.strip().strip("|").split("|")] for row in run(r"\|")]
            if len(rows) > 1 and re.fullmatch(r"[\s:|-]+", lines[i - len(rows) + 1]):
                yield table(rows[0], rows[2:])
            else:
                yield table((), rows)
        elif re.match(r"[-*] ", line):
            yield tag("ul", *(tag("li", inline(item)) for item in _items(run(r"[-*] | {2,3}\S"))))
        else:
            first = i
            i += 1
            run(r"(?!```|#{1,6} |\||[-*] )\S")
            yield tag("p", inline(" ".join(lines[first:i])))


def _items(lines: list[str]) -> list[str]:
    """The items of a list, each with the lines that continue it."""
    items: list[str] = []
    for line in lines:
        if line[0] in "-*":
            items.append(line[2:])
        else:
            items[-1] += " " + line.strip()
    return items


def inline(text: str) -> Html:
    """Code, bold, and of links their words."""
    parts: list[Html | str] = []
    place = 0
    for match in _INLINE.finditer(text):
        parts.append(text[place : match.start()])
        code, bold, link = match.groups()
        parts.append(tag("code", code) if code else tag("strong", bold) if bold else link or "")
        place = match.end()
    return join(*parts, text[place:])
