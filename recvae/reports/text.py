"""Text from data files, made safe to show.

A title, an id, a dataset's name or a row of a broken file may hold control characters. A terminal executes them
(colours, a new window title, text over other text), and direction marks reverse the text after them. In text for people
they are replaced by escapes such as ``\\x1b``. Files keep every character.
"""

import html
import re

# C0 but tab and line feed, DEL and C1; marks that override or isolate a direction; separators of lines and paragraphs.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def visible(text: str) -> str:
    """Return text with its control characters written out, as Python writes them; tabs and line feeds stay."""
    return _CONTROLS.sub(_python, text) if _CONTROLS.search(text) else text


def visible_json(text: str) -> str:
    """Return a JSON document with its control characters as JSON escapes, which leaves its meaning unchanged."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def in_html(text: str) -> str:
    """Return text for HTML and SVG: special characters escaped, control characters written out."""
    return html.escape(visible(text))


def _python(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
