"""Items found by a text that somebody types: in titles and ids, the best matches first."""

import heapq
import re
import unicodedata
from collections.abc import Sequence

_YEAR = re.compile(r"\s*\(\d{4}\)$")
_ARTICLE = re.compile(r"^(.*), (the|a|an|les?|la|das|der|die|el|il)$")


def plain_title(title: str) -> str:
    """Return a title as people type it: ``Matrix, The (1999)`` becomes ``the matrix``."""
    return _ARTICLE.sub(r"\2 \1", _YEAR.sub("", title.casefold().strip()))


def folded(text: str) -> str:
    """Return a text without case, accents and double spaces: ``Amélie`` becomes ``amelie``."""
    if not text.isascii():
        text = "".join(mark for mark in unicodedata.normalize("NFKD", text) if not unicodedata.combining(mark))
    return " ".join(text.casefold().split())


class Search:
    """The items of a catalogue, prepared so that they are found by a part of their title or id."""

    def __init__(self, ids: Sequence[str], titles: Sequence[str]) -> None:
        self._ids = [folded(item) for item in ids]
        whole = [folded(title) for title in titles]
        self._titles = [
            title if (plain := plain_title(title)) in title else f"{title}\n{plain}" for title in whole
        ]  # each form of a title is a line

    def find(self, text: str, most: int) -> tuple[list[int], int]:
        """Return the columns of the best matches, at most ``most``, and how many items match.

        In this order: the id, the title, the beginning of a title, the beginning of a word, a part of a title, all
        words in any order, a part of an id. Equal matches: the shorter title, then the lower column. Without any text
        all items match, in the order of the columns.
        """
        wanted = folded(text)
        if not wanted:
            return list(range(min(most, len(self._ids)))), len(self._ids)
        words = wanted.split()
        of_word = re.compile(rf"\b{re.escape(wanted)}" if wanted[0].isalnum() else re.escape(wanted))
        found = []
        for column, (item, title) in enumerate(zip(self._ids, self._titles, strict=True)):
            if item == wanted:
                tier = 0
            elif wanted in title:
                forms = title.split("\n")
                if wanted in forms:
                    tier = 1
                elif any(form.startswith(wanted) for form in forms):
                    tier = 2
                else:
                    tier = 3 if of_word.search(title) else 4
            elif len(words) > 1 and all(word in title for word in words):
                tier = 5
            elif wanted in item:
                tier = 6
            else:
                continue
            found.append((tier, len(title.partition("\n")[0]), column))
        return [column for *_, column in heapq.nsmallest(most, found)], len(found)
