"""Answers as JSON: put together from parts that are prepared once, as most of a list is the same every time.

Scores have seven digits, as many as float32 has.
"""

from collections.abc import Sequence

from pydantic_core import to_json

from recvae.serving.answers import Because, Listing, Question
from recvae.serving.served import Served


def recommended(question: Question, listing: Listing) -> bytes:
    """Return the answer to one question, :class:`recvae.serving.schema.Recommended`."""
    return b"%b,%b" % (answer(question, listing)[:-1], _made_by(question.served))


def answer(question: Question, listing: Listing) -> bytes:
    """Return an answer without the model's name, :class:`recvae.serving.schema.Answer`."""
    card = question.served.card
    items = [
        b'%b,"score":%.7g,"rank":%d,"reasons":%b}'
        % (card(column), score, rank, _reasons(question.served, because) if because else b"[]")
        for column, score, rank, because in zip(*listing, strict=True)
    ]
    unknown = to_json(question.unknown) if question.unknown else b"[]"
    return b'{"items":[%b],"unknown":%b}' % (b",".join(items), unknown)


def answers(parts: Sequence[bytes], served: Served) -> bytes:
    """Return the answers of a batch, :class:`recvae.serving.schema.Answers`; a part is an answer or a problem."""
    return b'{"answers":[%b],%b' % (b",".join(parts), _made_by(served))


def similar(question: Question, listing: Listing) -> bytes:
    """Return the items most like one, :class:`recvae.serving.schema.SimilarItems`."""
    served = question.served
    items = [
        b'%b,"score":%.7g,"rank":%d}' % (served.card(column), score, rank)
        for column, score, rank, _ in zip(*listing, strict=True)
    ]
    asked = served.card(question.columns[0])
    return b'{"item":%b},"items":[%b],%b' % (asked, b",".join(items), _made_by(served))


def found(served: Served, columns: Sequence[int], total: int, unknown: Sequence[str]) -> bytes:
    """Return items that were found, :class:`recvae.serving.schema.Items`."""
    cards = b",".join(served.card(column) + b"}" for column in columns)
    return b'{"items":[%b],"total":%d,"unknown":%b}' % (cards, total, to_json(list(unknown)))


def _reasons(served: Served, reasons: Sequence[Because]) -> bytes:
    ids, titles = served.model.items.ids, served.model.items.titles
    parts = [
        b'{"item":%b,"title":%b,"score":%.7g,"rank":%d}'
        % (to_json(ids[one.column]), to_json(titles[one.column]), one.score, one.rank)
        for one in reasons
    ]
    return b"[%b]" % b",".join(parts)


def _made_by(served: Served) -> bytes:
    """Return the end of an answer: the model that made it."""
    return b'"model":%b}' % served.head
