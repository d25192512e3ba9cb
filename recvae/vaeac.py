"""The public VAE with arbitrary conditioning: clicks or ratings in, a ranking or the missing ratings out."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from recvae import defaults
from recvae.arguments import whole_number
from recvae.batches import Batch, as_csr, canonical
from recvae.config import RunConfig
from recvae.errors import InputError
from recvae.models.vaeac import VAEACNetwork, VAEACOptions, check
from recvae.noise import Noise
from recvae.options import OfEveryModel, takes
from recvae.training import TrainOptions
from recvae.vae import NeuralRecommender

_USERS_AT_ONCE = 1024
MOST_SAMPLES = 10_000  # of z for a rating: the error of their mean is then a hundredth of that of one


@dataclass(frozen=True, kw_only=True)
class VAEACArguments(VAEACOptions, TrainOptions, OfEveryModel):
    """The arguments of VAEAC: its options, those of training, seed and device."""


class VAEAC(NeuralRecommender):
    """Variational autoencoder with arbitrary conditioning; Ivanov et al. 2019.

    With ``ratings=True`` every matrix, in training and in prediction, holds ratings above 0 in place of clicks.
    """

    name = "vaeac"
    model_defaults = VAEACOptions()
    train_defaults = TrainOptions(epochs=200, learning_rate=1e-3)
    follows: ClassVar[defaults.Rule] = defaults.MULT
    build = VAEACNetwork
    network: VAEACNetwork

    @takes(VAEACArguments)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def _configure(self, config: RunConfig, device: str) -> None:
        check(config.model)
        if config.model.ratings:  # their values are what it is about
            config = replace(config, model=replace(config.model, weighted=True))
        super()._configure(config, device)

    def _prepare(self, matrix: Any) -> None:
        o = self.config.model
        if o.ratings:
            if o.likelihood == "multinomial" and not (matrix.data >= o.liked_from).any():
                raise InputError(
                    f"There is nothing to learn: none of the training ratings is {o.liked_from} or more, the least "
                    "that counts as liked. Set model.liked_from to a rating of this scale."
                )
            self.network.set_offsets(Batch.of(matrix, self.device, weighted=True))

    @torch.no_grad()
    def predict_ratings(self, histories: Any, where: Any, *, samples: int = 0) -> Any:
        """Return the ratings expected of users, CSR float32 (n, n_items), at the entries that ``where`` stores.

        ``histories``: CSR (n, n_items), the ratings that are known of each user; ``where``: CSR of the same shape, its
        values ignored, zeros and NaN too. z is the prior network's mean, or with ``samples`` the expectation is the
        mean over that many draws of z, the same ones for the same seed. Raises :class:`InputError` where the model does
        not predict ratings or shapes do not fit.
        """
        self._need_fit()
        if self.config.model.likelihood != "gaussian":
            raise InputError("This model ranks items and predicts no ratings; train it with likelihood = gaussian.")
        samples = whole_number("samples", samples, least=0, most=MOST_SAMPLES)
        histories, where = canonical(histories), _entries(where)
        if histories.shape != where.shape or where.shape[1] != self.n_items:
            raise InputError(
                f"The histories are {histories.shape} and the entries to predict {where.shape}; both must be "
                f"(users, {self.n_items})."
            )
        noise = Noise(self.config.seed, self.device) if samples else None
        parts: list[Tensor] = []
        for start in range(0, where.shape[0], _USERS_AT_ONCE):
            users = slice(start, start + _USERS_AT_ONCE)
            batch = Batch.of(histories[users], self.device, weighted=True)
            asked = Batch.of(where[users], self.device)
            code = self.network.coder(batch, noise)
            draws = [self.network.expected(batch, asked, code()) for _ in range(samples or 1)]
            parts.append(torch.stack(draws).mean(0).cpu())
        predicted = where.astype(np.float32)
        predicted.data = torch.cat(parts).numpy() if parts else predicted.data
        return predicted


def _entries(where: Any) -> Any:
    """Return the entries that ``where`` stores, whatever their values, as a canonical CSR of positive numbers."""
    from scipy.sparse import csr_array

    where = as_csr(where)
    ones = np.ones(len(where.indices), np.float32)
    return canonical(csr_array((ones, where.indices, where.indptr), shape=where.shape))
