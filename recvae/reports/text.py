"""Text that others wrote, made safe to show.

A title, an id, a data set's name or a row of a broken file may hold control characters. A terminal obeys them (colours,
a new window title, text written over other text), and marks of direction turn round the text that follows. Where text
is shown they are written out, such as ``\\x1b``. Files keep every character.
"""

import html
import re

# C0 but tab and line feed, DEL and C1; marks that override or isolate a direction; separators of lines and paragraphs.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def visible(text: str) -> str:
    """Return text with its control characters written out, as Python writes them; tabs and line feeds stay."""
    return _CONTROLS.sub(_python, text) if _CONTROLS.search(text) else text


def visible_json(text: str) -> str:
    """Return a JSON document with its control characters written out as JSON writes them: it means the same."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_html(text: str) -> str:
    """Return text as it stands in HTML and SVG: marks that mean something there escaped, control characters written."""
    return html.escape(visible(text))


def _python(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
