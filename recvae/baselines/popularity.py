"""Popularity: every user gets the most clicked items."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.errors import InputError
from recvae.matrices import item_counts as counts_of_items
from recvae.nn.batches import Batch
from recvae.options import OfEveryModel, takes
from recvae.recommender import Recommender
from recvae.training.tensors import Expected


@dataclass(frozen=True, kw_only=True)
class PopularityOptions:
    """Popularity has no options."""


@dataclass(frozen=True, kw_only=True)
class PopularityArguments(PopularityOptions, OfEveryModel):
    """The arguments of Popularity: its options, seed and device."""


class Popularity(Recommender):
    """Ranks items by their number of clicks in the training matrix, for all users alike."""

    name = "popularity"
    no_start = "counts the clicks of all users anew"
    introduced = True
    model_defaults = PopularityOptions()

    @takes(PopularityArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def learn(self, matrix: csr_array) -> None:
        self.counts = item_counts(matrix)

    def scores(self, histories: csr_array) -> Tensor:
        return self.counts.repeat(histories.shape[0], 1)

    def scores_of(self, batch: Batch) -> Tensor:
        return self.counts + torch.zeros_like(batch.lengths, dtype=torch.float32)[:, None]

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        return self.counts[items].repeat(histories.shape[0], 1)

    def tensors(self) -> dict[str, Tensor]:
        return {"counts": self.counts}

    def expected(self) -> Mapping[str, Expected]:
        return {"counts": Expected((self.n_items,), low=0)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.counts = tensors["counts"]

    def similarity(self, items: Tensor) -> Tensor:
        raise InputError("Popularity knows how often items were clicked, not which are alike. Use another model.")


def popularity_where_empty(scores: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
    """Return scores (B, n_items), and popularity for users of ``lengths`` 0, as a graph computes it; new memory."""
    return torch.where((lengths == 0)[:, None], counts, scores)


def item_counts(matrix: csr_array) -> Tensor:
    """Return the number of clicks of each column of a CSR, float32 (n_items,)."""
    return torch.from_numpy(counts_of_items(matrix).astype(np.float32))
