"""The items that a model knows."""

from collections.abc import Sequence
from dataclasses import dataclass

from recvae.files import vocabulary_hash


@dataclass(frozen=True)
class Vocabulary:
    """The items a model knows: raw ids in column order, and titles (empty where there are none)."""

    ids: Sequence[str]
    titles: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def hash(self) -> str:
        """Return the SHA-256 of the ids in order, one per line: two catalogues are the same where it is."""
        return vocabulary_hash(self.ids)

    def titles_hash(self) -> str:
        """Return the SHA-256 of the titles, by which an altered items.csv shows."""
        return vocabulary_hash(self.titles)
