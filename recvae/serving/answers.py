"""From checked requests to lists, without any HTTP: questions, which of them share one Query, and their listings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recvae.arguments import shown
from recvae.errors import InputError, listed
from recvae.matrices import Rows
from recvae.queries import Answer, Query
from recvae.serving.problems import FieldError, Refusal, of_field
from recvae.serving.schema import Recommend, Similar
from recvae.serving.served import Served
from recvae.serving.settings import Settings

LARGEST = float(np.finfo(np.float32).max)  # JSON knows no infinity


@dataclass(slots=True, eq=False)
class Question:
    """One question in the columns of the model that will answer it.

    ``columns``: the history, each item once, ascending, with ``values`` of the same length; for similar items the one
    item, and ``similar`` is set. ``unknown``: ids of the request that the model does not know.
    """

    served: Served
    columns: list[int]
    k: int
    values: list[float] | None = None
    exclude_seen: bool = True
    allow: list[int] | None = None
    deny: list[int] | None = None
    allow_tags: tuple[str, ...] | None = None
    deny_tags: tuple[str, ...] | None = None
    conditions: tuple[str, ...] | None = None
    most_per_tag: int | None = None
    diversity: float = 0.0
    reasons: int = 0
    similar: bool = False
    unknown: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of rows that are scored for this question."""
        return 1 + len(self.columns) if self.reasons else 1

    @property
    def plain(self) -> bool:
        """Whether a list's beginning is the same whatever its length."""
        return self.most_per_tag is None and not self.diversity and not self.reasons

    def group(self) -> tuple[object, ...]:
        """Return a key: questions of the same key can be asked in one Query."""
        if self.similar:
            rules = (self.allow, self.deny, self.allow_tags, self.deny_tags)
            return self.served, True, self.k, None if all(rule is None for rule in rules) else self
        return (
            self.served,
            False,
            0 if self.plain else self.k,
            self.exclude_seen,
            self.allow is None,
            self.allow_tags is None,
            self.most_per_tag,
            self.diversity,
            self.reasons,
        )


class Because(NamedTuple):
    """An item of the history, and the listed item's score and rank where the history is without it."""

    column: int
    score: float
    rank: int


class Listing(NamedTuple):
    """One answer: columns, scores, ranks and reasons of each listed item.

    A rank is the place in the list; where reasons were asked for, it is the place by score, as the reasons' ranks are.
    The two differ in a list that is in another order for the sake of diversity.
    """

    columns: list[int]
    scores: list[float]
    ranks: Sequence[int]
    reasons: Sequence[list[Because]]


def asked(served: Served, request: Recommend, settings: Settings) -> Question:
    """Return a request as a question to ``served``; raise :class:`Refusal` for values that cannot be used."""
    _limit("k", request.k, settings.max_k)
    _limit("reasons", request.reasons, settings.max_reasons)
    if len(request.history) > settings.max_history:
        raise of_field(
            "history", f"The history has {len(request.history):,} items; this service takes {settings.max_history:,}."
        )
    model, ratings = served.model, _ratings(served, request)
    found = map(served.columns.get, request.history)  # None for an item that is not known
    value_of = {} if ratings is None else dict(zip(found, ratings, strict=True))
    row = set(found if ratings is None else value_of)
    unknown = dict[str, None]()
    if None in row:
        row.discard(None)
        unknown.update((item, None) for item in request.history if item not in served.columns)
    if request.strict and request.history and not row:
        raise of_field("history", f"None of the history's items is known: {listed(request.history)}.")
    columns: list[int] = sorted(row)  # type: ignore[arg-type]  # None was taken out
    if request.reasons and len(columns) > settings.max_explained:
        raise of_field(
            "reasons",
            f"Reasons are found for histories of up to {settings.max_explained:,} items, and this has "
            f"{len(columns):,}. Ask without reasons, or with a shorter history.",
        )
    question = Question(
        served,
        columns,
        min(request.k, served.n_items),
        None if ratings is None else [value_of[column] for column in columns],
        request.exclude_seen,
        most_per_tag=request.most_per_tag,
        diversity=request.diversity,
        reasons=request.reasons,
    )
    _rules(question, request, unknown)
    if request.conditions:
        try:
            model.encode_conditions([request.conditions])
        except InputError as error:
            raise of_field("conditions", str(error)) from error
        question.conditions = tuple(request.conditions)
    question.unknown = list(unknown)
    return question


def alike(served: Served, request: Similar, settings: Settings) -> Question:
    """Return a request for similar items as a question; raise :class:`Refusal` as :func:`asked` does, 404 for an item
    that there is not.
    """
    _limit("k", request.k, settings.max_k)
    column = served.columns.get(request.item)
    if column is None:
        raise of_field("item", served.no_item(request.item), status=404)
    if served.no_similar:
        raise of_field("item", served.no_similar)
    unknown = dict[str, None]()
    question = Question(served, [column], min(request.k, served.model.n_items), similar=True)
    _rules(question, request, unknown)
    question.unknown = list(unknown)
    return question


def _limit(name: str, value: int, most: int) -> None:
    if value > most:
        raise of_field(name, f"'{name}' must be at most {most:,}, and is {shown(value)}.")


def _ratings(served: Served, request: Recommend) -> list[float] | None:
    """Return the rating of each item of a history, None where no ratings are given."""
    if request.ratings is None:
        return None
    if not served.of_ratings:
        raise of_field("ratings", "This model was trained on clicks, to which a rating says nothing: leave them out.")
    if len(request.ratings) != len(request.history):
        raise of_field(
            "ratings",
            f"There are {len(request.ratings):,} ratings for {len(request.history):,} items; each item has one.",
        )
    return request.ratings


def _rules(question: Question, request: Recommend | Similar, unknown: dict[str, None]) -> None:
    """Put the items and tags of a request into a question, and unknown ids into ``unknown``."""
    served, errors = question.served, []
    for name, ids in (("allow", request.allow), ("deny", request.deny)):
        if ids is None:
            continue
        known = [column for item in ids if (column := served.columns.get(item)) is not None]
        unknown.update((item, None) for item in ids if item not in served.columns)
        if name == "allow" and not known:
            raise of_field("allow", "None of the allowed items is known, so that nothing could be listed.")
        setattr(question, name, sorted(set(known)))
    for name, tags in (("allow_tags", request.allow_tags), ("deny_tags", request.deny_tags)):
        if tags is None:
            continue
        for place, tag in enumerate(tags):
            if tag not in served.tags:
                errors.append(FieldError(f"{name}.{place}", served.no_tag(tag)))
        if name == "allow_tags" and not tags:
            errors.append(FieldError(name, "The list of allowed tags is empty, so that nothing could be listed."))
        setattr(question, name, tuple(dict.fromkeys(tags)))
    if errors:
        raise Refusal(422, errors[0].detail, errors)


def answered(questions: Sequence[Question]) -> list[Listing]:
    """Return the listings of questions that share one Query, by one call of the model that they are asked of."""
    first = questions[0]
    model = first.served.model
    k = max(question.k for question in questions)
    if first.similar:
        answer = model.similar_items(
            [question.columns[0] for question in questions],
            k,
            allow=None if first.allow is None else np.array(first.allow, np.int64),
            deny=None if first.deny is None else np.array(first.deny, np.int64),
            allow_tags=first.allow_tags,
            deny_tags=first.deny_tags,
        )
    else:
        answer = model.answer(query(questions, k))
    return _listings(answer, [question.k for question in questions])


def query(questions: Sequence[Question], k: int) -> Query:
    """Return the Query of questions of one group."""
    first, n_items = questions[0], questions[0].served.model.n_items
    value = first.served.named_value
    histories = Rows.of_lists([question.columns for question in questions], n_items, value)
    if any(question.values is not None for question in questions):
        values = [question.values or [value] * len(question.columns) for question in questions]
        histories.data[:] = [number for row in values for number in row]
    alone = len(questions) == 1

    def items(rows: list[list[int] | None]) -> Rows | NDArray[np.int64] | None:
        if all(row is None for row in rows):
            return None
        return np.array(rows[0], np.int64) if alone else Rows.of_lists([row or [] for row in rows], n_items)

    def names(rows: list[tuple[str, ...] | None]) -> Sequence[object] | None:
        if not any(rows):
            return None
        return rows[0] if alone else [row or () for row in rows]

    return Query(
        histories,
        k,
        first.exclude_seen,
        items([question.allow for question in questions]),
        items([question.deny for question in questions]),
        names([question.conditions for question in questions]),
        names([question.allow_tags for question in questions]),
        names([question.deny_tags for question in questions]),
        first.most_per_tag,
        first.diversity,
        first.reasons,
    )


def _listings(answer: Answer, widths: Sequence[int]) -> list[Listing]:
    """Return the rows of an answer as plain numbers, each cut to its length and without padding."""
    ids = answer.ids
    lengths = np.minimum((ids >= 0).sum(1), widths).tolist()
    scores = np.clip(answer.scores, -LARGEST, LARGEST).tolist()
    found = answer.reasons
    listings = []
    for row, (columns, length) in enumerate(zip(ids.tolist(), lengths, strict=True)):
        ranks: Sequence[int] = range(1, length + 1)
        reasons: Sequence[list[Because]] = [[]] * length
        if found is not None:
            ranks = found.ranks[row, :length].tolist()
            parts = (found.items, np.clip(found.scores, -LARGEST, LARGEST), found.ranks_without)
            triples = zip(*(part[row, :length].tolist() for part in parts), strict=True)
            reasons = [[Because(*one) for one in zip(*three, strict=True) if one[0] >= 0] for three in triples]
        listings.append(Listing(columns[:length], scores[row][:length], ranks, reasons))
    return listings
