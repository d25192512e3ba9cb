"""The bodies of requests and answers: the one place where their fields are declared, checked and described."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from recvae.queries import MOST_REASONS

Id = Annotated[str, Field(description="An item's id, as in the data.", examples=["2571"])]
Rating = Annotated[float, Field(gt=0, le=3e38, allow_inf_nan=False)]
Ids = Annotated[list[str] | None, Field(description="Items' ids.")]
Tags = Annotated[list[str] | None, Field(description="Items' tags.")]


class Body(BaseModel):
    """The body of a request: fields of the declared types and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Recommend(Body):
    """A question: which items come next for a history, within some rules?"""

    history: list[str] = Field(description="The ids of the items that the user clicked, in any order; may be empty.")
    ratings: list[Rating] | None = Field(
        None, description="The ratings of the history's items, for a model of ratings."
    )
    k: int = Field(10, ge=1, description="Items to list.")
    exclude_seen: bool = Field(True, description="Whether the history's items are left out.")
    allow: Ids = Field(None, description="List only these items.")
    deny: Ids = Field(None, description="List none of these items.")
    allow_tags: Tags = Field(None, description="List only items that have one of these tags.")
    deny_tags: Tags = Field(None, description="List no item that has one of these tags.")
    conditions: list[str] | None = Field(None, description="Names of the model's conditions to ask under.")
    most_per_tag: int | None = Field(None, ge=1, le=2**31, description="At most so many items of one tag.")
    diversity: float = Field(0.0, ge=0, le=1, description="From 0, the plain list, to 1: trade scores for variety.")
    reasons: int = Field(
        0, ge=0, le=MOST_REASONS, description="Name for each listed item so many of the history's items that raised it."
    )
    strict: bool = Field(False, description="Refuse a history of which no item is known.")


class Batch(Body):
    """Several questions, each of which gets an answer or a problem of its own."""

    queries: list[Recommend] = Field(description="The questions.")


class Similar(Body):
    """A question: which items are most like one item?"""

    item: Id
    k: int = Field(10, ge=1, description="Items to list.")
    allow: Ids = Field(None, description="List only these items.")
    deny: Ids = Field(None, description="List none of these items.")
    allow_tags: Tags = Field(None, description="List only items that have one of these tags.")
    deny_tags: Tags = Field(None, description="List no item that has one of these tags.")


class Card(BaseModel):
    """An item: its id, its title (empty where there is none) and its tags."""

    item: Id
    title: str
    tags: list[str]


class Reason(BaseModel):
    """An item of the history, and the listed item's score and rank where the history is without it."""

    item: Id
    title: str
    score: float
    rank: int


class Listed(Card):
    """An item of a list: the model's score, and its place from 1."""

    score: float
    rank: int = Field(description="The place in the list; where reasons are asked for, the place by score.")


class Recommendation(Listed):
    """A recommended item, with the reasons that were asked for."""

    reasons: list[Reason]


class Model(BaseModel):
    """The model that made an answer, and its version: 12 hexadecimal digits of a digest of its files."""

    name: str
    version: str


class FieldProblem(BaseModel):
    """A field that is wrong, and a sentence about it."""

    field: str
    detail: str


class Problem(BaseModel):
    """A problem document of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldProblem]


class Answer(BaseModel):
    """A list, best first, and the ids in the question that the model does not know."""

    items: list[Recommendation]
    unknown: list[str]


class Recommended(Answer):
    """The answer to one question."""

    model: Model


class Refused(BaseModel):
    """The place of a question in a batch that cannot be answered."""

    problem: Problem


class Answers(BaseModel):
    """An answer or a problem for each question of a batch, in order."""

    answers: list[Answer | Refused]
    model: Model


class SimilarItems(BaseModel):
    """The items most like one item, the most alike first."""

    item: Card
    items: list[Listed]
    model: Model


class Items(BaseModel):
    """Items found by a text, the best matches first, or by ids."""

    items: list[Card]
    total: int = Field(description="How many items match, listed or not.")
    unknown: list[str] = Field(description="Ids that the model does not know.")


class TagCount(BaseModel):
    """A tag, and the number of items that have it."""

    tag: str
    items: int


class Limits(BaseModel):
    """The largest values that the service accepts; ``body`` in bytes."""

    k: int
    history: int
    batch: int
    reasons: int
    body: int


class About(BaseModel):
    """A served model, and the requests that it can answer."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    title: str
    version: str
    items: int
    titles: bool = Field(description="Whether items have titles.")
    tags: list[TagCount]
    conditions: list[str]
    ratings: bool = Field(description="Whether histories hold ratings.")
    similar: bool = Field(description="Whether the model knows which items are alike.")
    dataset: str | None
    metrics: dict[str, float]
    limits: Limits
    loaded: str = Field(description="When the model was loaded, as ISO 8601 has it.")


class Named(BaseModel):
    """A served model."""

    name: str
    title: str
    version: str


class Health(BaseModel):
    """Whether the service is alive, or ready for requests."""

    status: str
