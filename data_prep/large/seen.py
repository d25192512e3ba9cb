"""Facts about a column of ids that are known once all pieces were seen, without keeping the ids."""

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_WHOLE_FLOAT = r"^(?:0|-?[1-9][0-9]*)\.0$"


class Seen:
    """Whether all ids are whole numbers written as floats, the first id, and whether any id is among ``named``."""

    def __init__(self, named: Collection[str]) -> None:
        self.named = named
        self.whole = True  # so far
        self._first = ""
        self._found_as_written = self._found_whole = False

    def add(self, ids: "pa.Array") -> None:
        """Take a piece's distinct ids into account."""
        import pyarrow.compute as pc

        if not self._first:
            self._first = ids[0].as_py()
        if self.whole:
            self.whole = bool(pc.all(pc.match_substring_regex(ids, _WHOLE_FLOAT)).as_py())
        if self.named and not self._found_as_written:
            texts = ids.to_pylist()
            self._found_as_written = any(text in self.named for text in texts)
            if self.whole and not self._found_whole:
                self._found_whole = any(text[:-2] in self.named for text in texts)

    @property
    def first(self) -> str:
        """The first id."""
        return self._first[:-2] if self.whole else self._first

    @property
    def found(self) -> bool:
        """Whether any id is among the named ones."""
        return self._found_whole if self.whole else self._found_as_written
