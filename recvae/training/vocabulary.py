"""The items that a model knows: raw ids in column order, titles, tags, and the way from ids and tags to columns."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from recvae.arguments import items, shown
from recvae.errors import DataError, InputError, did_you_mean, listed
from recvae.files import JsonObject, vocabulary_hash
from recvae.matrices import Rows
from recvae.queries import ALLOWED_TAGS, DENIED_TAGS, TAGS, Query, encoded, of_each, rows_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Tags = Mapping[str, Sequence[str]]
"""Tags by item id."""


class Naming(NamedTuple):
    """The arguments of ``fit`` that name the columns of a training matrix, or those of a data frame of clicks."""

    item_ids: Sequence[str] | None = None
    titles: Sequence[str] | None = None
    item_tags: Tags | None = None
    user_column: str = "user"
    item_column: str = "item"


_SEARCHED = 20_000  # ids among which the nearest is found in a moment


@dataclass(frozen=True)
class Vocabulary:
    """The items a model knows: raw ids in column order, titles (empty where there are none), and tags such as genres.

    ``tags`` has a tuple for each column, empty where an item has none; without the argument no item has any.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    tags: Sequence[tuple[str, ...]] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.tags:
            self.__dict__["tags"] = [()] * len(self.ids)

    @classmethod
    def of(
        cls, n_items: int, ids: Sequence[str] | None, titles: Sequence[str] | None, tags: Tags | None = None
    ) -> Self:
        """Return the vocabulary of ``n_items`` columns; without ``ids`` an item's id is its column's number.

        ``tags`` are by item id; ids that no column has are ignored. Raises :class:`DataError` where there are more or
        fewer ids or titles than columns, or two columns of one id, and :class:`InputError` where the tags are not lists
        of texts by item id.
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
        return cls(named, called).tagged(tags)

    def tagged(self, tags: Tags | None) -> Self:
        """Return the same items with tags by item id, each of an item's tags once; errors as for :meth:`of`."""
        known = {} if tags is None else _checked_tags(tags)
        return replace(self, tags=[known.get(item, ()) for item in self.ids])

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each raw item id."""
        return {item: column for column, item in enumerate(self.ids)}

    @cached_property
    def tag_names(self) -> tuple[str, ...]:
        """The tags that items have, T of them, in order."""
        return tuple(sorted({tag for tags in self.tags for tag in tags}))

    @cached_property
    def tag_table(self) -> Rows:
        """The tags of the items: rows of ones (n_items, T), whose columns are as in :attr:`tag_names`."""
        return encoded(self.tags, self.tag_names, TAGS)

    def tagged_with(self, tags: "Sequence[int] | NDArray[np.integer]") -> "NDArray[np.int64]":
        """Return the columns of the items that have one of ``tags``, columns of :attr:`tag_table`; ascending int64."""
        return np.unique(self.tag_table.by_column[tags].indices)

    def encode(self, histories: Iterable[Iterable[str]], value: float = 1.0) -> tuple[Rows, list[str]]:
        """Return lists of raw item ids as rows (n, n_items) of ``value``, and the ids that are not known, each once.

        Raises :class:`InputError` for anything else than lists of ids.
        """
        unknown: dict[str, None] = {}
        rows = []
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
            rows.append(sorted(row))
        return Rows.of_lists(rows, len(self), value), list(unknown)

    def encode_mask(
        self, name: str, named: Iterable[str] | Iterable[Iterable[str]]
    ) -> "tuple[NDArray[np.integer] | Rows, list[str]]":
        """Return ``allow`` or ``deny``, as ``name`` says, in columns, and the ids that are not known.

        Raw item ids for all users become an array of columns, a list of them for each user rows (n, n_items).
        """
        lists = items(f"'{name}'", named)
        each = [isinstance(of_user, Iterable) and not isinstance(of_user, str | bytes) for of_user in lists]
        if any(each) and not all(each):
            raise InputError(f"'{name}' is a list of item ids for all users, or one such list for each user, not both.")
        mask, unknown = self.encode(lists if lists and all(each) else [lists])
        return (mask if lists and all(each) else mask.indices), unknown

    def with_columns(self, query: Query) -> Query:
        """Return a query with its allowed and denied tags as ranking reads them.

        Tags for all users become the columns of the items that have one of them, int64, and tags of each user rows of
        ones (n, T). Raises :class:`InputError` for a tag that no item has, and where no item has any.
        """
        if query.about_tags and not self.tag_names:
            raise InputError(
                "The model's items have no tags: the model was trained without any. Train it on a dataset with item "
                "tags, or give item_tags to fit."
            )
        found: JsonObject = {}
        for name, word in (("allow_tags", ALLOWED_TAGS), ("deny_tags", DENIED_TAGS)):
            asked = getattr(query, name)
            if asked is not None:
                for_all = isinstance(asked, tuple) and not of_each(asked)
                n, names = (1, tuple(asked)) if for_all else (query.n_users, asked)
                tags = rows_of(word, names, n, len(self.tag_names), lambda lists: encoded(lists, self.tag_names, TAGS))
                found[name] = self.tagged_with(tags.indices) if for_all else tags
        return query.under(**found) if found else query

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

    def tags_hash(self) -> str | None:
        """Return the SHA-256 of the pairs of item and tag, None where no item has a tag."""
        return vocabulary_hash([text for pair in self.tag_pairs() for text in pair]) if self.tag_names else None

    def tag_pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of item id and tag, in the order of the columns and of each item's tags."""
        return [(item, tag) for item, tags in zip(self.ids, self.tags, strict=True) for tag in tags]


def _checked_tags(tags: Tags) -> dict[str, tuple[str, ...]]:
    """Return tags by item id, each once; raise :class:`InputError` where they are not lists of texts by item id."""
    if not isinstance(tags, Mapping):
        raise InputError(f"item_tags are lists of tags by item id, a dict, and not {shown(tags)}.")
    lists = {item_name(item): items("The tags of an item", of) for item, of in tags.items()}
    for tag in (tag for of in lists.values() for tag in of):
        if not isinstance(tag, str):
            raise InputError(f"The tags of an item are texts, and not {shown(tag)}.")
    return {item: tuple(dict.fromkeys(of)) for item, of in lists.items()}


def item_name(item: Any) -> str:
    """Return a raw item id, a text or a whole number, as text; raise :class:`InputError` for anything else."""
    if isinstance(item, str):
        return item
    if isinstance(item, int | np.integer) and not isinstance(item, bool) and -(10**18) < int(item) < 10**18:
        return str(item)
    raise InputError(f"An item id is a text, and not {shown(item)}.")
