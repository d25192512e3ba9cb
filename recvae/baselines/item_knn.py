"""Item-kNN: an item's score is the sum of its similarities to those of its nearest neighbours that the user clicked.

The neighbours are the scored item's, by the cosine of the items' columns: Sarwar et al., WWW 2001. A click of a user
with many clicks counts less: Deshpande and Karypis, ACM TOIS 2004, divide each user's row by its norm.
The cosine made asymmetric: Aiolli, RecSys 2013. Shrinkage: Bell and Koren, ICDM 2007.

    w_u   proportional to n_u^-activity, 1 on average over the clicks
    c_ij  = sum_u w_u x_ui x_uj
    s_ij  = c_ij / (c_ii^asymmetry c_jj^(1 - asymmetry) + shrinkage)
    score_uj = sum of s_ij over the clicked items i among the ``neighbours`` items with the largest s_ij, i not j
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from recvae.baselines.popularity import item_counts, popularity_where_empty
from recvae.nn.batches import Batch
from recvae.nn.ragged import entries_of_rows
from recvae.options import Between, OfEveryModel, option, takes
from recvae.recommender import Recommender, popularity_for_the_unknown
from recvae.training.tensors import Expected

ENTRIES = 1 << 19  # entries of the item-item product that are computed at a time


@dataclass(frozen=True, kw_only=True)
class ItemKNNOptions:
    """Options of item-kNN."""

    neighbours: int = option(
        100, "Number of nearest items that count for an item's score.", search=Between(20, 500, log=True), ge=1
    )
    shrinkage: float = option(
        5.0,
        "Added to a similarity's denominator, in clicks: pairs of rare items become less alike.",
        search=Between(0.0, 50.0),
        ge=0,
    )
    asymmetry: float = option(
        0.65,
        "Exponent of the clicked item's norm, 1 less this that of the scored item's; 0.5 is the cosine.",
        search=Between(0.3, 0.9),
        ge=0,
        le=1,
    )
    activity: float = option(
        1.0,
        "A click of a user with n_u clicks weighs n_u^-activity: with 0 all weigh the same.",
        search=Between(0.0, 2.0),
        ge=0,
        le=10,
    )


@dataclass(frozen=True, kw_only=True)
class ItemKNNArguments(ItemKNNOptions, OfEveryModel):
    """The arguments of ItemKNN: its options, seed and device."""


class ItemKNN(Recommender):
    """Nearest neighbours among items. Memory: 16 bytes for each item and neighbour."""

    name = "item-knn"
    no_start = "counts the clicks of all users anew"
    model_defaults = ItemKNNOptions()

    @takes(ItemKNNArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def learn(self, matrix: csr_array) -> None:
        options = self.config.options(ItemKNNOptions)
        self.counts = item_counts(matrix)
        self._hold(
            nearest_neighbours(
                matrix,
                options.neighbours,
                shrinkage=options.shrinkage,
                asymmetry=options.asymmetry,
                activity=options.activity,
            )
        )

    def scores(self, histories: csr_array) -> Tensor:
        scores = torch.from_numpy((_ones(histories) @ self.weights).toarray())
        return popularity_for_the_unknown(scores, histories, self.counts)

    def scores_of(self, batch: Batch) -> Tensor:
        offsets, scored, similarities = self.by_clicked
        click, places = entries_of_rows(offsets, batch.columns)
        cells = batch.rows.index_select(0, click) * self.n_items + scored.index_select(0, places).long()
        flat = similarities.new_zeros(batch.lengths.shape[0] * self.n_items)
        scores = flat.index_add(0, cells, similarities.index_select(0, places)).view(-1, self.n_items)
        return popularity_where_empty(scores, batch.lengths, self.counts)

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        scores = torch.from_numpy((_ones(histories) @ self.neighbours[items.numpy()].T.tocsr()).toarray())
        return popularity_for_the_unknown(scores, histories, self.counts[items])

    def tensors(self) -> dict[str, Tensor]:
        return {
            "offsets": torch.from_numpy(self.neighbours.indptr.astype(np.int64)),
            "neighbours": torch.from_numpy(self.neighbours.indices.astype(np.int32)),
            "similarities": torch.from_numpy(self.neighbours.data),
            "counts": self.counts,
        }

    def expected(self) -> Mapping[str, Expected]:
        return {
            "offsets": Expected((self.n_items + 1,), torch.int64, offsets="n"),
            "neighbours": Expected(("n",), torch.int32, low=0, high=self.n_items - 1),
            "similarities": Expected(("n",)),
            "counts": Expected((self.n_items,), low=0),
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.counts = tensors["counts"]
        parts = tuple(tensors[name].numpy() for name in ("similarities", "neighbours", "offsets"))
        self._hold(csr_array(parts, shape=(self.n_items, self.n_items)))

    def similarity(self, items: Tensor) -> Tensor:
        """Return the similarities of the neighbours, and -inf for other items."""
        offsets, nearest, similarities = _tensors(self.neighbours)
        row, places = entries_of_rows(offsets, items)
        cells = row * self.n_items + nearest.index_select(0, places).long()
        found = torch.full((items.shape[0] * self.n_items,), -torch.inf)
        return found.index_put((cells,), similarities.index_select(0, places)).view(-1, self.n_items)

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the similarities of the neighbours, and 0 for other items."""
        asked = items.cpu().numpy().astype(np.int64)
        users = np.arange(len(asked))
        cells = (users[:, None] * self.n_items + asked).ravel()

        def alike(places: Tensor) -> Tensor:
            rows = self.neighbours[asked[users, places.cpu().numpy()]]
            keys = np.repeat(users, np.diff(rows.indptr)) * self.n_items + rows.indices
            order = np.argsort(keys)
            keys, values = np.append(keys[order], -1), np.append(rows.data[order], np.float32(0))
            where = np.searchsorted(keys[:-1], cells)
            return torch.from_numpy(np.where(keys[where] == cells, values[where], np.float32(0)).reshape(asked.shape))

        return alike

    def _hold(self, neighbours: csr_array) -> None:
        self.neighbours = neighbours
        self.weights = neighbours.T.tocsr()  # by clicked item, as a history needs them
        self.by_clicked = _tensors(self.weights)


def _tensors(matrix: csr_array) -> tuple[Tensor, Tensor, Tensor]:
    """Return a CSR's row pointers int64, columns int32 and values; the values share its memory."""
    pointers = torch.from_numpy(matrix.indptr.astype(np.int64))
    return pointers, torch.from_numpy(matrix.indices.astype(np.int32, copy=False)), torch.from_numpy(matrix.data)


def _ones(histories: csr_array) -> csr_array:
    """Return clicks without weights, float32."""
    ones = np.ones(len(histories.indices), dtype=np.float32)
    return csr_array((ones, histories.indices, histories.indptr), shape=histories.shape)


def nearest_neighbours(
    matrix: csr_array, neighbours: int, *, shrinkage: float, asymmetry: float, activity: float
) -> csr_array:
    """Return the nearest items of each item: CSR (n_items, n_items), float32, row j the s_ij of j's neighbours i.

    ``matrix`` CSR (n_users, n_items), binarised. A row holds at most ``neighbours`` entries, best first, and fewer
    where fewer items share a user with j. Similarities are compared in float32, equal ones go to the lower item.
    """
    n_items = matrix.shape[1]
    clicks = csr_array((np.ones(len(matrix.indices)), matrix.indices, matrix.indptr), shape=matrix.shape)
    lengths = np.diff(matrix.indptr).astype(np.float64)
    by_item = clicks.T.tocsr()
    entries = np.minimum(by_item @ lengths, n_items)  # the most entries of each item's row of the product
    weights = np.maximum(lengths, 1) ** -activity
    by_item.data = (weights * (lengths.sum() / (weights @ lengths)))[by_item.indices]  # w_u x_ui
    norms = by_item.sum(axis=1)  # c_ii
    clicked, scored = norms**asymmetry, norms ** (1 - asymmetry)
    columns, values = [], []
    for start, stop in _tiles(entries):
        product = by_item[start:stop] @ clicks
        rows = np.repeat(np.arange(start, stop), np.diff(product.indptr))
        product.data /= clicked[product.indices] * scored[rows] + shrinkage
        product.data[product.indices == rows] = -np.inf  # an item is not its own neighbour
        similarities = product.data.astype(np.float32)
        for begin, end in zip(product.indptr[:-1], product.indptr[1:], strict=True):
            nearest = begin + _largest(similarities[begin:end], product.indices[begin:end], neighbours)
            columns.append(product.indices[nearest])
            values.append(similarities[nearest])
    offsets = np.cumsum([0, *map(len, columns)])
    return csr_array((np.concatenate(values), np.concatenate(columns), offsets), shape=(n_items, n_items))


def _tiles(entries: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of items whose rows together have at most :data:`ENTRIES` entries, or a single item."""
    ends = np.cumsum(entries)
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(ends, before + ENTRIES, side="right")))
        yield start, stop
        start = stop


def _largest(values: NDArray[np.float32], columns: NDArray[np.int32], k: int) -> NDArray[np.int64]:
    """Return the places of the ``k`` largest finite values, best first, equal ones in the order of ``columns``."""
    bound = np.partition(values, -k)[-k] if k < len(values) else -np.inf
    places = np.flatnonzero((values >= bound) & (values > -np.inf))
    return places[np.lexsort((columns[places], -values[places]))[:k]]
