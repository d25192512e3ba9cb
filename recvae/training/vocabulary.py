"""The items that a model knows: raw ids in column order, titles, and the way from ids to columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from recvae.arguments import items, shown
from recvae.errors import DataError, InputError, did_you_mean, listed
from recvae.files import vocabulary_hash

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_SEARCHED = 20_000  # ids among which the nearest is found in a moment


@dataclass(frozen=True)
class Vocabulary:
    """The items a model knows: raw ids in column order, and titles (empty where there are none)."""

    ids: Sequence[str]
    titles: Sequence[str]

    @classmethod
    def of(cls, n_items: int, ids: Sequence[str] | None, titles: Sequence[str] | None) -> Self:
        """Return the vocabulary of ``n_items`` columns; without ``ids`` an item's id is its column's number.

        Raises :class:`DataError` where there are more or fewer ids or titles than columns, or two columns of one id.
        """
        named = [str(i) for i in range(n_items)] if ids is None else [item_name(i) for i in items("item_ids", ids)]
        called = [""] * n_items
        if titles is not None:
            called = ["" if title is None else str(title) for title in items("titles", titles)]
        for what, values in (("item ids", named), ("titles", called)):
            if len(values) != n_items:
                raise DataError(f"There are {len(values)} {what} for {n_items} columns.")
        if len(set(named)) != n_items:
            raise DataError("The item ids are not distinct; each column needs its own.")
        return cls(named, called)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each raw item id."""
        return {item: column for column, item in enumerate(self.ids)}

    def encode(self, histories: Iterable[Iterable[str]], value: float = 1.0) -> "tuple[csr_array, list[str]]":
        """Return lists of raw item ids as CSR (n, n_items) of ``value``, and the ids that are not known, each once.

        Raises :class:`InputError` for anything else than lists of ids.
        """
        from scipy.sparse import csr_array

        unknown: dict[str, None] = {}
        indptr, indices = [0], []  # type: tuple[list[int], list[int]]
        for history in items("The histories", histories):
            if isinstance(history, str | bytes):
                raise InputError(
                    f"A history is a list of item ids, not one text such as {shown(history)}. "
                    f"Write [[{shown(history)}]]."
                )
            row = set()
            for item in items("A history", history):
                named = item_name(item)
                column = self.columns.get(named)
                if column is None:
                    unknown[named] = None
                else:
                    row.add(column)
            indices += sorted(row)
            indptr.append(len(indices))
        values = np.full(len(indices), value, dtype=np.float32)
        return csr_array((values, indices, indptr), shape=(len(indptr) - 1, len(self))), list(unknown)

    def refuse_unknown(self, unknown: Sequence[str]) -> None:
        """Raise :class:`InputError` naming ids that are not known, with the nearest where one can mean something."""
        if unknown:
            searched = not unknown[0].isdigit() and len(self) <= _SEARCHED
            near = did_you_mean(unknown[0], self.columns) if searched else ""
            raise InputError(f"The model does not know the item {listed(unknown)}.{near}")

    def hash(self) -> str:
        """Return the SHA-256 of the ids in order, one per line: two catalogues are the same where it is."""
        return vocabulary_hash(self.ids)

    def titles_hash(self) -> str:
        """Return the SHA-256 of the titles, by which an altered items.csv shows."""
        return vocabulary_hash(self.titles)


def item_name(item: Any) -> str:
    """Return a raw item id, a text or a whole number, as text; raise :class:`InputError` for anything else."""
    if isinstance(item, str):
        return item
    if isinstance(item, int | np.integer) and not isinstance(item, bool) and -(10**18) < int(item) < 10**18:
        return str(item)
    raise InputError(f"An item id is a text, and not {shown(item)}.")
