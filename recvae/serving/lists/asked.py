"""All that is asked about every user, and the numbers of the outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recvae.queries import Mask, Names, Query

if TYPE_CHECKING:
    import pyarrow as pa

    from recvae.matrices import Rows

SHOWN = 5  # unknown items that a sentence names


@dataclass(frozen=True)
class Columns:
    """The names of the columns of histories; ``rating`` and ``conditions`` are optional.

    A value of a column of conditions is the name of one, such as ``Comedy``; where the model has conditions such as
    ``gender=F``, the value F of a column ``gender`` is that one.
    """

    user: str = "user"
    item: str = "item"
    rating: str | None = None
    conditions: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the names of all columns."""
        return [self.user, self.item, *([] if self.rating is None else [self.rating]), *self.conditions]


@dataclass(frozen=True, eq=False)
class UserTable:
    """A rule that differs by user: rows (len(users) + 1, n) of ones, a row for each of ``users`` and an empty last one.

    A user who is not among ``users`` has the last row.
    """

    users: Sequence[str]
    table: "Rows"
    places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.__dict__["places"] = {user: place for place, user in enumerate(self.users)}

    def rows(self, users: Sequence[str]) -> "Rows":
        """Return the rows of some users, (len(users), n)."""
        last = len(self.users)
        return self.table[np.array([self.places.get(user, last) for user in users], dtype=np.int64)]


@dataclass(frozen=True, eq=False)
class Asked:
    """All that is asked about every user: the fields of a :class:`Query` but its histories, and the form of the lists.

    ``allow`` and ``deny`` are columns for all users. ``each``: rules that differ by user, by the query's field:
    ``allow``, ``deny``, ``allow_tags`` or ``deny_tags``. ``wide``: a row for each user in place of one for each item.
    """

    k: int = 10
    exclude_seen: bool = True
    allow: Mask = None
    deny: Mask = None
    conditions: Sequence[str] | None = None
    allow_tags: Names = None
    deny_tags: Names = None
    most_per_tag: int | None = None
    diversity: float = 0.0
    reasons: int = 0
    each: Mapping[str, UserTable] = field(default_factory=dict)
    wide: bool = False

    def query(self, histories: "Histories") -> Query:
        """Return the question about some users."""
        names = self.conditions
        rules = {
            "allow": self.allow, "deny": self.deny, "allow_tags": self.allow_tags, "deny_tags": self.deny_tags,
            **{rule: table.rows(histories.users.to_pylist()) for rule, table in self.each.items()},
        }  # fmt: skip
        if histories.conditions is not None:
            names = [tuple(dict.fromkeys((*(names or ()), *of_user))) for of_user in histories.conditions]  # type: ignore[misc]  # conditions of users are tuples of names here
        return Query(
            histories.matrix,
            self.k,
            self.exclude_seen,
            conditions=names,
            most_per_tag=self.most_per_tag,
            diversity=self.diversity,
            reasons=self.reasons,
            **rules,
        )


class Histories(NamedTuple):
    """Some users' histories in a model's columns.

    ``users``: ids, an Arrow array of text (n,). ``matrix``: canonical CSR (n, n_items). ``conditions``: names for each
    user, None where no column has any. ``clicks`` and ``unknown``: the numbers of the histories' items, and of those
    that the model does not know, of which ``such_as`` has a few.
    """

    users: "pa.Array"
    matrix: "Rows"
    conditions: list[tuple[str, ...]] | None
    clicks: int
    unknown: int
    such_as: list[str]


@dataclass
class Counts:
    """The numbers of a batch, a part or all parts; ``clicks``: items of histories, ``unknown``: those not in the model.

    ``rows``: listed items. ``empty``: users with an empty list. ``such_as``: a few of the unknown items.
    """

    users: int = 0
    rows: int = 0
    clicks: int = 0
    unknown: int = 0
    empty: int = 0
    such_as: list[str] = field(default_factory=list)

    def add(self, other: "Counts") -> None:
        """Add other numbers; a few unknown items are kept."""
        self.users, self.rows = self.users + other.users, self.rows + other.rows
        self.clicks, self.unknown = self.clicks + other.clicks, self.unknown + other.unknown
        self.empty += other.empty
        self.such_as = [*dict.fromkeys([*self.such_as, *other.such_as])][:SHOWN]
