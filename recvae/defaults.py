"""Defaults that follow the data: the values of unset options, from the size of the training matrix.

A value that suits 100,000 users is wrong for 700: at 500 users an update, MovieLens-100K has two updates a pass. So a
model has a table of the options whose default is a function of the size (``Recommender.follows``); tables and functions
are here. An option that is set, in a configuration, with --set or as an argument, never follows.

Each function is a power law that goes through the papers' values at MovieLens-20M, with exponents chosen on the
validation users of four smaller data sets (docs/log.md); docs/models/README.md has the table with examples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Rule = Mapping[str, Callable[["Size"], int | float]]
"""By ``section.key``, the function that gives an option's default."""

FEW_CLICKS = 200_000
MOST_ITEMS = 25_000  # with a dense items x items path: 12 bytes a pair while it is made, 7.5 GB


@dataclass(frozen=True)
class Size:
    """The size of a training matrix; all three are at least 1."""

    users: int
    items: int
    clicks: int

    @classmethod
    def of(cls, matrix: "csr_array") -> "Size":
        """Return the size of a sparse matrix (n_users, n_items), every entry a click."""
        users, items = matrix.shape
        return cls(max(1, int(users)), max(1, int(items)), max(1, int(matrix.nnz)))

    @classmethod
    def of_training(cls, manifest: Mapping[str, Any]) -> "Size":
        """Return the size of a prepared dataset's training matrix, by its manifest."""
        counts = manifest["counts"]
        return cls(max(1, counts["users"]["train"]), max(1, counts["items"]), max(1, counts["clicks"]["train"]))

    @property
    def clicks_per_user(self) -> float:
        """The mean number of clicks of a user."""
        return self.clicks / self.users

    @property
    def clicks_per_item(self) -> float:
        """The mean number of clicks of an item."""
        return self.clicks / self.items

    @property
    def density(self) -> float:
        """The share of pairs of a user and an item that are clicked."""
        return self.clicks / (self.users * self.items)


def batch_size(size: Size, most: int = 500) -> int:
    """Return 1.5 times the root of the number of users, to the ten below, from 20 to ``most``.

    So the number of updates a pass grows with the root as well: 18 for 738 users, 234 for MovieLens-20M's 116,677.
    """
    return max(20, min(most, 10 * int(0.15 * math.sqrt(size.users))))


def epochs(size: Size, least: int, updates: int) -> int:
    """Return ``least`` epochs, and more for few users: as many as make ``updates`` updates a pass in all, up to 200."""
    a_pass = math.ceil(size.users / batch_size(size))
    return max(least, min(200, math.ceil(updates / a_pass)))


def gamma(size: Size) -> float:
    """Return RecVAE's weight of the KL term per click: .365 over the mean number of clicks of a user.

    With fewer clicks in all than MovieLens-20M a stronger prior is needed, by the fifth root: 2.9 times for 43,600.
    """
    scarcity = max(1.0, (8.5e6 / size.clicks) ** 0.2)
    return _two_digits(0.365 / size.clicks_per_user * scarcity)


def learning_rate(size: Size) -> float:
    """Return Adam's step size for RecVAE: larger where items have few clicks, whose weights move in few updates.

    It is .0103 over the root of the mean number of clicks of an item, from the paper's 5e-4 to 3e-3.
    """
    return min(3e-3, max(5e-4, _two_digits(0.0103 / math.sqrt(size.clicks_per_item))))


def hidden(size: Size) -> int:
    """Return the width of RecVAE's encoder: half of the paper's below 200,000 clicks."""
    return 300 if size.clicks < FEW_CLICKS else 600


def layers(size: Size) -> int:
    """Return the number of layers of RecVAE's encoder: two in place of the paper's five below 200,000 clicks."""
    return 2 if size.clicks < FEW_CLICKS else 5


def linear_l2(size: Size, at_one: float) -> float:
    """Return a linear item-item model's lambda: ``at_one`` times the root of the mean number of clicks of an item.

    Up to 500, which is EASE's published value at MovieLens-20M.
    """
    return min(500.0, _two_digits(at_one * math.sqrt(size.clicks_per_item)))


def path_weight(size: Size) -> float:
    """Return the weight of EDLAE's scores beside RecVAE's logits: half the share of pairs clicked to the power of -.8.

    The fewer pairs are clicked, the smaller are the scores of a linear model. From 4 to 100.
    """
    return min(100.0, max(4.0, _two_digits(0.5 * size.density**-0.8)))


def als_regularization(size: Size) -> float:
    """Return implicit ALS's weight of the factors' squared norms: 200 times the root of the share of pairs clicked."""
    return max(1.0, _two_digits(200 * math.sqrt(size.density)))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def recommended(size: Size) -> str:
    """Return the model to begin with: RecVAE + EDLAE while items x items fit into memory, RecVAE beyond."""
    return "recvae-edlae" if size.items <= MOST_ITEMS else "recvae"


MULT: Rule = {"train.batch_size": batch_size}
VAMP: Rule = {"train.batch_size": lambda size: batch_size(size, most=200)}
RECVAE: Rule = {
    "train.batch_size": batch_size,
    "train.epochs": lambda size: epochs(size, least=50, updates=1000),
    "train.learning_rate": learning_rate,
    "model.gamma": gamma,
    "model.hidden": hidden,
    "model.layers": layers,
}
RECVAE_EDLAE: Rule = {**RECVAE, "model.path_weight": path_weight, "model.path_l2": lambda size: linear_l2(size, 20.0)}
EASE: Rule = {"model.l2": lambda size: linear_l2(size, 40.0)}
EDLAE: Rule = {"model.l2": lambda size: linear_l2(size, 20.0)}
IMPLICIT_ALS: Rule = {"model.regularization": als_regularization}
