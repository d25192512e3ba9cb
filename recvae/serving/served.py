"""A model as it is served: its version, and what is prepared once so that an answer is put together quickly."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from pydantic_core import to_json

from recvae.errors import InputError, did_you_mean, listed
from recvae.matrices import Rows
from recvae.queries import Query
from recvae.serving.model import Model
from recvae.serving.search import Search

_SEARCHED = 20_000  # ids among which the nearest is found in a moment


@dataclass(eq=False)
class Served:
    """A loaded model under the name by which it is asked, and the version of its files."""

    name: str
    model: Model
    version: str

    def __post_init__(self) -> None:
        self.loaded = datetime.now(UTC)
        self.title = self.model.title
        self.columns: Mapping[str, int] = self.model.items.columns
        self.n_items = self.model.n_items
        self.named_value = self.model.named_value
        self.of_ratings = self.model.of_ratings
        self.head = to_json({"name": self.name, "version": self.version})
        self.no_similar = ""  # a sentence where the model has no similarities
        self._cards: list[bytes | None] = [None] * len(self.columns)
        self.tags = Counter(tag for tags in self.model.items.tags for tag in tags)  # numbers of items

    @cached_property
    def search(self) -> Search:
        """The items by what somebody types; prepared when :meth:`warm` is called."""
        return Search(self.model.items.ids, self.model.items.titles)

    def warm(self) -> None:
        """Ask the model once, so that the first request waits for nothing; raise its errors.

        The model is asked for one item and for several, and whether it knows which items are alike.
        """
        n_items = self.model.n_items
        self.model.hold()
        for rows in (1, 8):
            one_each = Rows.of_lists([[row % n_items] for row in range(rows)], n_items, self.named_value)
            self.model.answer(Query(one_each, min(10, n_items)))
        self.search.find("a", 1)
        try:
            self.model.similar_items([0], 1)
        except InputError as error:
            self.no_similar = str(error)

    def card(self, column: int) -> bytes:
        """Return an item's id, title and tags as the beginning of a JSON object, ``{"item":...,"tags":[...]``."""
        card = self._cards[column]
        if card is None:
            items = self.model.items
            whole = {"item": items.ids[column], "title": items.titles[column], "tags": list(items.tags[column])}
            card = self._cards[column] = to_json(whole)[:-1]
        return card

    def no_item(self, item: str) -> str:
        """Return the sentence about an item that the model does not know, with the nearest."""
        searched = not item.isdigit() and len(self.columns) <= _SEARCHED
        near = did_you_mean(item[:100], self.columns) if searched else ""
        return f"The model does not know the item {listed([item[:100]])}.{near}"

    def no_tag(self, tag: str) -> str:
        """Return the sentence about a tag that no item has, with the nearest."""
        if not self.tags:
            return "The model's items have no tags."
        return f"No item has the tag {listed([tag[:100]])}.{did_you_mean(tag[:100], self.tags)}"
