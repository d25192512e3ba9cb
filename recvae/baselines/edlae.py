"""EDLAE: Steck, "Autoencoders that don't overfit towards the Identity", NeurIPS 2020; the full-rank model.

A linear autoencoder with dropout p whose loss counts the dropped entries alone, so that no item predicts itself. In
expectation over the dropout this is EASE with one penalty per item: lambda + p / (1 - p) times the item's number of
clicks, which is the diagonal of X'X. With p = 0 it is EASE.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae import defaults
from recvae.baselines.ease import EASE, closed_form
from recvae.baselines.popularity import item_counts
from recvae.options import Between, OfEveryModel, option, takes


@dataclass(frozen=True, kw_only=True)
class EDLAEOptions:
    """Options of EDLAE."""

    dropout: float = option(
        0.5, "Share p of clicks dropped from the input; 0 is EASE.", search=Between(0.1, 0.9), ge=0, lt=1
    )
    l2: float = option(
        200.0, "Lambda of lambda * sum of squared weights.", search=Between(10.0, 2000.0, log=True), gt=0
    )


@dataclass(frozen=True, kw_only=True)
class EDLAEArguments(EDLAEOptions, OfEveryModel):
    """The arguments of EDLAE: its options, seed and device."""


class EDLAE(EASE):
    """Linear item-item model with a zero diagonal, regularised by dropout, in closed form. Memory as for EASE."""

    name = "edlae"
    no_start = "is computed from all clicks in closed form"
    model_defaults = EDLAEOptions()
    follows: ClassVar[defaults.Rule] = defaults.EDLAE

    @takes(EDLAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def learn(self, matrix: csr_array) -> None:
        options = self.config.options(EDLAEOptions)
        self.counts = item_counts(matrix)
        self.weights = edlae_weights(matrix, options.dropout, options.l2)


def edlae_weights(matrix: csr_array, dropout: float, l2: float) -> Tensor:
    """Return EDLAE's B, float32 (n_items, n_items), of a CSR (n_users, n_items); raises as :func:`closed_form` does."""
    clicks = item_counts(matrix).numpy().astype(np.float64)  # the diagonal of X'X
    return torch.from_numpy(closed_form(matrix, l2 + dropout / (1 - dropout) * clicks))
