"""The two ends of every ranking: a Query holds all that is asked, an Answer the lists.

Python, command line, evaluation and diagnostics make a :class:`Query`; a model answers it. A query is checked once,
when it is made, and kept in the form that ranking reads, so that ranking and its blocks check nothing again. NumPy
alone: the evaluation makes queries too, and so does a service of exported models, which has neither torch nor SciPy.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recvae.arguments import flag, items, real_number, shown, whole_number
from recvae.errors import InputError, did_you_mean, listed
from recvae.matrices import Matrix, Rows, canonical

if TYPE_CHECKING:
    from scipy.sparse import csr_array

MOST_REASONS = 100
MOST_PLACES = 1 << 27  # of lists longer than the catalogue, whose padding takes memory too: 1 GiB

Users = slice | NDArray[np.int64]

Mask: TypeAlias = "Sequence[int] | Matrix | None"
"""Items: their columns for all users, or a matrix (n, n_items) whose entries are each user's items."""

Names: TypeAlias = "Sequence[str] | Sequence[Sequence[str]] | Matrix | None"
"""Names of conditions or tags: for all users, a list for each, or a matrix (n, C) of the columns that they have."""


class Word(NamedTuple):
    """The words of a sentence about names of one kind."""

    one: str
    many: str
    owner: str


CONDITIONS, TAGS, ALLOWED_TAGS, DENIED_TAGS = (
    Word("condition", "conditions", "The model has"),
    *(Word("tag", many, "The model's items have") for many in ("tags", "allowed tags", "denied tags")),
)


@dataclass(frozen=True, eq=False)
class Query:
    """A question about ``n`` users: which ``k`` items come next for each, by their histories and within some rules.

    ``histories``: a matrix (n, n_items), one row per user, kept as canonical CSR (a ``csr_array``, or
    :class:`recvae.matrices.Rows` where it is one); none of the users need be known to the model, and an empty row is
    legal. ``k``: items per list. ``exclude_seen`` leaves a history's items out of its
    list. ``allow`` and ``deny``: item indices for all users, kept as int64, or a matrix (n, n_items) whose entries are
    each user's items; only allowed items are listed, and no denied one. ``conditions``: names of a model's conditions
    for all users, a list of such names for each, or a matrix (n, C) whose entries say which of the model's C conditions
    each user asks under; kept as a tuple of names, a tuple of such tuples, or CSR of ones. ``allow_tags`` and
    ``deny_tags``: tags of items in the same three forms: only items with one of the allowed tags are listed, and none
    with a denied one. ``most_per_tag``: at most so many items of one tag in a list. ``diversity``, from 0 to 1, trades
    scores for unlike items; 0 is the plain ranking. ``reasons``: for each listed item, so many items of the history
    that lowered it most if they were not there.

    Matrices are not copied where they are canonical already. Raises :class:`InputError` for ``k`` < 1, for a ``k``
    beyond the catalogue with which the lists would have more than :data:`MOST_PLACES` places in all, for a number out
    of its range and for arguments whose shapes do not fit the histories; :class:`DataError` for a matrix whose arrays
    do not fit one another.
    """

    histories: "csr_array"
    k: int = 10
    exclude_seen: bool = True
    allow: Any = None
    deny: Any = None
    conditions: Any = None
    allow_tags: Any = None
    deny_tags: Any = None
    most_per_tag: int | None = None
    diversity: float = 0.0
    reasons: int = 0

    def __post_init__(self) -> None:
        k = whole_number("k", self.k, least=1)
        exclude_seen = flag("exclude_seen", self.exclude_seen)
        histories = canonical(self.histories)
        n, n_items = histories.shape
        if k > n_items and k * max(1, n) > MOST_PLACES:
            raise InputError(
                f"k is too large: {n:,} lists of that length would be all but empty, for there are {n_items:,} items. "
                f"Use a k of at most {max(1, n_items):,}."
            )
        self._put(
            histories=histories,
            k=k,
            exclude_seen=exclude_seen,
            allow=_mask("allow", self.allow, n, n_items),
            deny=_mask("deny", self.deny, n, n_items),
            conditions=_names(CONDITIONS, self.conditions, n),
            allow_tags=_names(ALLOWED_TAGS, self.allow_tags, n),
            deny_tags=_names(DENIED_TAGS, self.deny_tags, n),
            most_per_tag=None
            if self.most_per_tag is None
            else whole_number("most_per_tag", self.most_per_tag, least=1),
            diversity=_share("diversity", self.diversity),
            reasons=whole_number("reasons", self.reasons, least=0, most=MOST_REASONS),
        )

    def _put(self, **values: Any) -> None:
        """Set fields to values that are checked."""
        self.__dict__.update(values)

    @property
    def n_users(self) -> int:
        """Number of users that are asked about."""
        return int(self.histories.shape[0])

    @property
    def about_tags(self) -> bool:
        """Whether a rule is about tags."""
        return not (self.allow_tags is None and self.deny_tags is None and self.most_per_tag is None)

    def of(self, rows: Users, *, k: int | None = None) -> "Query":
        """Return the same question about some of the users, with lists of ``k``; nothing is checked again.

        ``rows``: a slice or row numbers int64 (b,).
        """
        part = copy.copy(self)
        part._put(
            histories=self.histories[rows],
            k=self.k if k is None else k,
            allow=_of_users(self.allow, rows),
            deny=_of_users(self.deny, rows),
            conditions=_of_users(self.conditions, rows),
            allow_tags=_of_users(self.allow_tags, rows),
            deny_tags=_of_users(self.deny_tags, rows),
        )
        return part

    def in_scipy(self) -> "Query":
        """Return the same question with every matrix as a ``csr_array``, which models of torch read; no copies."""
        matrices = {name: value.in_scipy() for name, value in vars(self).items() if isinstance(value, Rows)}
        return self.under(**matrices) if matrices else self

    def under(self, **tables: Any) -> "Query":
        """Return the same question with what a model made of names: canonical CSR (n, C) of ones for ``conditions``."""
        part = copy.copy(self)
        part._put(**tables)
        return part


@dataclass(frozen=True, eq=False)
class Reasons:
    """The items of each history whose removal lowers a listed item's score most: r for each of (n, k) listed items.

    ``ranks`` int32 (n, k): the listed item's place, from 1, by score among the items that the query's rules admit.
    ``items`` int32 (n, k, r): items of the history, the one that lowers the score most first; -1 where fewer lower it.
    ``scores`` float32 (n, k, r) and ``ranks_without`` int32 (n, k, r): the listed item's score and its place where the
    history is without that item and the same rules hold; -inf and 0 beside -1.
    """

    ranks: NDArray[np.int32]
    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    ranks_without: NDArray[np.int32]


class Reason(NamedTuple):
    """An item of a history, and the score and rank that a listed item has without it."""

    item: str
    score: float
    rank: int


class Listed(NamedTuple):
    """An item of a list: its raw id, score, rank by score (or place in the list where no reasons were asked for)."""

    item: str
    score: float
    rank: int
    reasons: list[Reason]


@dataclass(frozen=True, eq=False)
class Answer:
    """The lists that answer a query, row i of them its user i: best first, equal scores by the lower item index.

    ``ids`` int32 (n, k): item indices. ``scores`` float32 (n, k): the model's scores, also where a list is in another
    order for the sake of diversity. A row with fewer than ``k`` items left is padded at its end with id -1 and score
    -inf. ``reasons`` is there where the query asked for some. ``ids, scores = answer`` takes it apart.
    """

    ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    reasons: Reasons | None = None

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield ids and scores."""
        return iter((self.ids, self.scores))

    def named(self, item_ids: Sequence[str]) -> list[list[Listed]]:
        """Return the lists with raw item ids and reasons, without padding; ``item_ids``: the id of each column."""
        ranks = np.broadcast_to(np.arange(1, self.ids.shape[1] + 1), self.ids.shape)
        empty = np.zeros((*self.ids.shape, 0), np.int32)
        items, scores, without = empty, empty, empty
        if self.reasons is not None:
            ranks = self.reasons.ranks
            items, scores, without = self.reasons.items, self.reasons.scores, self.reasons.ranks_without
        named = []
        for user, row in enumerate(self.ids):
            length = int((row >= 0).sum())
            because = [
                [Reason(item_ids[i], s, r) for i, s, r in zip(*of_item, strict=True) if i >= 0]
                for of_item in zip(items[user].tolist(), scores[user].tolist(), without[user].tolist(), strict=True)
            ]
            columns = row.tolist(), self.scores[user].tolist(), ranks[user].tolist(), because
            named.append([Listed(item_ids[i], *rest) for i, *rest in [*zip(*columns, strict=True)][:length]])
        return named


def encoded(names: Sequence[Sequence[str]], known: Sequence[str], word: Word = CONDITIONS) -> Rows:
    """Return lists of names out of ``known``, C of them, as rows of ones (n, C).

    Raises :class:`InputError` for a name there is not, with the nearest.
    """
    names = [_texts(of_user, word) for of_user in items(f"The {word.many}", names)]
    place = {name: column for column, name in enumerate(known)}
    rows = [sorted({place.get(name, -1) for name in of_user}) for of_user in names]
    for row, of_user in zip(rows, names, strict=True):
        if -1 in row:
            unknown = next(name for name in of_user if name not in place)
            near = did_you_mean(unknown, place)
            have = f"{'It has' if word is CONDITIONS else 'They have'} {listed(known, most=40)}."
            raise InputError(f"{word.owner} no {word.one} {shown(unknown)}.{near} {have}")
    return Rows.of_lists(rows, len(place))


def encoded_conditions(
    names: Sequence[Sequence[str]], known: Sequence[str], attributes: Sequence[str], title: str
) -> Rows:
    """Return lists of names of a model's conditions, ``known``, as rows of ones (n, C).

    ``attributes``: the attributes of users of which each user has one value, a condition ``attribute=value``.
    ``title``: of the model, for the sentence where it has no conditions. Raises :class:`InputError` for a name that
    there is not, and for two values of one attribute.
    """
    if not known:
        raise InputError(
            f"This {title} model has no conditions: it ranks by the history alone. A "
            "conditional-vae that was trained with item tags or user attributes has them."
        )
    table = encoded(names, known)
    for attribute in attributes:
        for of_user in names:
            values = [name for name in dict.fromkeys(of_user) if name.startswith(f"{attribute}=")]
            if len(values) > 1:
                both = f"'{values[0]}' and '{values[1]}'"
                raise InputError(f"A user has one '{attribute}', not both {both}. Ask under one of them.")
    return table


def with_conditions(query: Query, known: Sequence[str], encode: "Callable[[Any], csr_array | Rows]") -> Query:
    """Return a query with its names of conditions in a model's columns, ``known``; ``encode`` makes rows of names.

    Raises :class:`InputError` as ``encode`` does, also where the model has no conditions.
    """
    if query.conditions is None:
        return query
    if not known:
        encode([])  # which says that there are none
    return query.under(conditions=rows_of(CONDITIONS, query.conditions, query.n_users, len(known), encode))


def refuse_other_catalogue(query: object, n_items: int) -> None:
    """Raise :class:`InputError` unless ``query`` is a :class:`Query` about a catalogue of ``n_items``."""
    if not isinstance(query, Query):
        raise InputError(f"answer takes a recvae.Query, and not {shown(query)}; recommend takes its arguments.")
    if query.histories.shape[1] != n_items:
        raise InputError(
            f"The histories have {query.histories.shape[1]} columns, but the model knows {n_items} items. "
            "Use the catalogue it was trained with."
        )


def about_items(ids: Sequence[int] | int, k: int, n_items: int, **rules: Any) -> Query:
    """Return the question which ``k`` items are most like each of ``ids`` (columns): each is a history of its own.

    ``rules``: ``allow``, ``deny`` and tags. Raises :class:`InputError` for an item outside the catalogue.
    """
    asked = item_indices([ids] if isinstance(ids, int) or getattr(ids, "ndim", 1) == 0 else ids)
    if asked is None or ((asked < 0) | (asked >= n_items)).any():
        raise InputError(f"Items are named by a list of their columns, 0 .. {n_items - 1}; got {shown(ids)}.")
    return Query(Rows.of_lists([[item] for item in asked.tolist()], n_items), k, **rules)


def rows_of(
    word: Word, asked: Any, n: int, width: int, encode: "Callable[[Any], csr_array | Rows]"
) -> "csr_array | Rows":
    """Return a query's names, in one of the three forms that it keeps, for ``n`` users as CSR (n, ``width``) of ones.

    ``encode`` makes such a matrix of a list of names for each user. Raises :class:`InputError` for a name that there is
    not and for a matrix of another width.
    """
    if isinstance(asked, tuple):
        return encode(asked) if of_each(asked) else encode([asked])[np.zeros(n, dtype=np.int64)]
    if asked.shape[1] != width:
        raise InputError(
            f"The {word.many} are {n} x {asked.shape[1]}, but there are {n} histories and {width} {word.one}s."
        )
    return asked


def _share(name: str, value: object) -> float:
    """Return a number from 0 to 1; raise :class:`InputError` for another value."""
    number = real_number(name, value)
    if not 0 <= number <= 1:
        raise InputError(f"{name} must be a number from 0 to 1, and is {shown(value)}.")
    return number


def _names(word: Word, values: Any, n: int) -> Any:
    """Return names for ``n`` users in the form that a query keeps; :class:`InputError` where they are none."""
    if values is None:
        return None
    if isinstance(values, str):
        raise InputError(f"{word.many.capitalize()} are a list of names, not one text. Write [{shown(values)}].")
    if getattr(values, "ndim", 1) == 2:
        table = canonical(values)
        if table.shape[0] != n:
            raise InputError(f"The {word.many} are {table.shape[0]} x {table.shape[1]}, but there are {n} histories.")
        return type(table)((np.ones(table.nnz, np.float32), table.indices, table.indptr), shape=table.shape)
    names = items(f"The {word.many}", values)
    lists = [name for name in names if isinstance(name, Iterable) and not isinstance(name, str)]
    if not lists:
        return tuple(_texts(names, word))
    if not len(lists) == len(names) == n:
        raise InputError(
            f"{word.many.capitalize()} are a list of names for all users, or one such list for each of the {n} "
            "histories."
        )
    return tuple(tuple(_texts(of_user, word)) for of_user in lists)


def _texts(names: Any, word: Word) -> list[str]:
    """Return the names of one user; raise :class:`InputError` for one that is no text."""
    found = items(f"The {word.many} of a user", names)
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"A {word.one} is a name, and not {shown(name)}.")
    return found


def _mask(name: str, mask: Any, n: int, n_items: int) -> Any:
    """Check an allow or deny argument; return None, an int64 array of item indices, or a canonical CSR."""
    if mask is None:
        return None
    if hasattr(mask, "indptr") or hasattr(mask, "tocsr"):
        mask = canonical(mask)
        if mask.shape != (n, n_items):
            raise InputError(f"'{name}' has shape {mask.shape}, but the histories have {(n, n_items)}.")
        return mask
    indices = item_indices(mask)
    if indices is None:
        raise InputError(f"'{name}' must be a one-dimensional array of item indices, or a sparse matrix of masks.")
    if indices.size and (indices.min() < 0 or indices.max() >= n_items):
        raise InputError(f"'{name}' names an item outside 0 .. {n_items - 1}.")
    return indices.astype(np.int64)


def item_indices(values: Any) -> NDArray[np.integer] | None:
    """Return a list of whole numbers (n,) as an array, None for any other value."""
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths, tensors elsewhere
        return None
    if found.size == 0 and found.ndim == 1:
        return found.astype(np.int64)
    return found if found.ndim == 1 and found.dtype.kind in "iu" else None


def _of_users(values: Any, rows: Users) -> Any:
    """Return the part of a rule that is about some users; a rule for all users is itself."""
    for_all = values is None or isinstance(values, np.ndarray) or (isinstance(values, tuple) and not of_each(values))
    if for_all:
        return values
    if isinstance(values, tuple):
        return values[rows] if isinstance(rows, slice) else tuple(values[row] for row in rows)
    return values[rows]


def of_each(conditions: tuple[Any, ...]) -> bool:
    """Return whether a query's names of conditions are a tuple for each user, and not the same for all."""
    return bool(conditions) and isinstance(conditions[0], tuple)
