"""RecVAE with EDLAE's linear path beside it: a deep and a shallow autoencoder whose scores are added.

The idea of two parallel paths, a variational autoencoder and a linear item-item model with a zero diagonal, is that of
VASP (Vančura and Kordík, ICANN 2021, arXiv 2102.05774), which trains them through one loss. Here each path has the
objective of its own paper: RecVAE its ELBO, EDLAE its closed form. Trained through one likelihood, the deep path learns
the errors of the linear one on the fold-in clicks, and these do not carry over to held-out clicks (docs/log.md has the
figures).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae import defaults
from recvae.baselines.edlae import edlae_weights
from recvae.models.neural import NeuralRecommender
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Batch
from recvae.nn.kernels import gathered_sum_at
from recvae.options import Between, OfEveryModel, option, takes
from recvae.training.loop import TrainOptions


@dataclass(frozen=True, kw_only=True)
class RecVAEEDLAEOptions(RecVAEOptions):
    """Options of RecVAE with a linear path: those of RecVAE, EDLAE's for the path, and the path's weight."""

    path_weight: float = option(
        6.0, "Weight of the linear path's scores beside RecVAE's logits.", search=Between(2.0, 16.0, log=True), ge=0
    )
    path_dropout: float = option(
        0.5, "Share of clicks dropped from the linear path's input.", search=Between(0.2, 0.7), ge=0, lt=1
    )
    path_l2: float = option(
        300.0, "Lambda of the linear path's squared weights.", search=Between(100.0, 1000.0, log=True), gt=0
    )


class RecVAEEDLAENetwork(RecVAENetwork):
    """RecVAE, and a linear path that takes part in predicting.

    ``path`` (I, I) is not trained by gradients: it must be set before training. It is a dense
    matrix, so memory grows with the square of the catalogue, as EDLAE's does.
    """

    path: Tensor

    def __init__(self, n_items: int, options: RecVAEEDLAEOptions, seed: int = 0) -> None:
        super().__init__(n_items, options, seed)
        self.path_weight = options.path_weight
        self.register_buffer("path", torch.zeros(n_items, n_items))

    def logits(self, batch: Batch) -> Tensor:
        clicks = torch.ones_like(batch.values)  # the path is learned from clicks without weights
        linear = batch.row_sums(self.path, clicks)  # (B, I)
        return super().logits(batch).add_(linear, alpha=self.path_weight)

    def logits_at(self, batch: Batch, items: Tensor) -> Tensor:
        clicks = torch.ones_like(batch.values)
        linear = gathered_sum_at(self.path, batch.columns, batch.offsets, clicks, items)  # (B, m)
        return super().logits_at(batch, items).add_(linear, alpha=self.path_weight)


@dataclass(frozen=True, kw_only=True)
class RecVAEEDLAEArguments(RecVAEEDLAEOptions, TrainOptions, OfEveryModel):
    """The arguments of RecVAEEDLAE: its options, those of training, seed and device."""


class RecVAEEDLAE(NeuralRecommender):
    """RecVAE with EDLAE's linear path beside it, after VASP (Vančura and Kordík 2021)."""

    name = "recvae-edlae"
    introduced = True
    about_likelihood = "The linear path takes part in ranking, not in the likelihood: log p(x) is that of RecVAE."
    model_defaults = RecVAEEDLAEOptions()
    train_defaults = TrainOptions(epochs=50, learning_rate=5e-4, average=0.7, patience=10)
    follows: ClassVar[defaults.Rule] = defaults.RECVAE_EDLAE
    build = RecVAEEDLAENetwork
    network: RecVAEEDLAENetwork
    fixed = ("path",)

    @takes(RecVAEEDLAEArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def _fix(self, matrix: csr_array) -> None:
        options = self.config.options(RecVAEEDLAEOptions)
        self.network.path.copy_(edlae_weights(matrix, options.path_dropout, options.path_l2))
