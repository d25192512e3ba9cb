"""A map of the items of a network: the decoder's directions on two axes, without what clicks alone explain of them.

The first principal axis of a decoder's rows is close to the items' popularity, which the map shows by the size of a dot
already. So the part of each direction that is linear in the logarithm of the clicks is removed first.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.files import JsonObject

if TYPE_CHECKING:
    from recvae.nn.network import Network
    from recvae.recommender import Recommender

Floats = NDArray[np.float64]

LABELLED = 40  # of the map's items, the most clicked
MAP_POINTS = 30_000  # the most clicked items; more would make a page that no browser likes
TAGS = 5  # that have a colour, the most frequent


def item_map(model: "Recommender", network: "Network", clicks: NDArray[np.int64]) -> JsonObject:
    """Return two coordinates for each item, the most clicked first: principal components of the decoder's directions.

    An item's vector is its row of the last layer at unit length, so that neighbours are those of 'recvae similar', less
    the part that is linear in log(1 + clicks). ``popularity`` is the share of the variance that this part held, and
    ``explained`` the shares of the two axes in what is left. ``tags`` are the most frequent tags of the items, and
    ``tag`` of a point is the rarest of them that the item has, or None.
    """
    rest, popularity = without_popularity(unit_rows(network.output.weight.detach().cpu().double().numpy()), clicks)
    places, explained = principal_components(rest)
    order = np.lexsort((np.arange(len(clicks)), -clicks))[:MAP_POINTS]
    ids, titles = model.items.ids, model.items.titles
    tags = frequent_tags(model.items.tags)
    return {
        "popularity": popularity,
        "explained": explained,
        "items_in_all": len(clicks),
        "labelled": LABELLED,
        "tags": tags,
        "points": [
            {
                "item_id": ids[i],
                "title": titles[i],
                "clicks": int(clicks[i]),
                "tag": next((tag for tag in reversed(tags) if tag in model.items.tags[i]), None),
                "x": float(f"{places[i, 0]:.5g}"),
                "y": float(f"{places[i, 1]:.5g}"),
            }
            for i in order.tolist()
        ],
    }


def frequent_tags(tags: Sequence[Sequence[str]]) -> list[str]:
    """Return the most frequent tags of the items, at most :data:`TAGS`, the most frequent first."""
    counts = Counter(tag for of_item in tags for tag in of_item)
    return sorted(counts, key=lambda tag: (-counts[tag], tag))[:TAGS]


def unit_rows(vectors: Floats) -> Floats:
    """Return the rows of (n, K) at unit length; a row of zeros stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def without_popularity(vectors: Floats, clicks: NDArray[np.int64]) -> tuple[Floats, float]:
    """Return (n, K) rows about their mean without the part that is linear in log(1 + clicks), and that part's share.

    Every column of the result is uncorrelated with log(1 + clicks). The share is of the variance of all columns.
    """
    about_mean = vectors - vectors.mean(axis=0)
    logs = np.log1p(clicks)
    logs = logs - logs.mean()
    total = float((about_mean**2).sum())
    if np.ptp(clicks) == 0 or total == 0:  # all items have as many clicks, or one direction
        return about_mean, 0.0
    rest = about_mean - np.outer(logs, logs @ about_mean / (logs @ logs))
    return rest, max(0.0, 1 - float((rest**2).sum()) / total)


def principal_components(rows: Floats) -> tuple[Floats, list[float]]:
    """Return the first two principal components (n, 2) of centred ``rows`` (n, K), and their shares of the variance.

    Signs are fixed by the largest coordinate of each axis being positive.
    """
    values, axes = np.linalg.eigh(rows.T @ rows)  # of the (K, K) scatter: the SVD's right vectors, without an (n, n)
    axes = axes[:, ::-1][:, :2]
    places = np.zeros((len(rows), 2))
    places[:, : axes.shape[1]] = rows @ axes
    places *= np.where(np.abs(places.min(axis=0)) > np.abs(places.max(axis=0)), -1.0, 1.0)
    total = values.sum()
    shares = (values[::-1][:2] / total if total > 0 else np.zeros(2)).tolist()
    return places, [max(0.0, share) for share in [*shares, 0.0][:2]]
