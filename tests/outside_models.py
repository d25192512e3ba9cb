"""Models as a package of somebody else's would have them: plain recommenders, known to recvae by their entry alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recvae.options import option
from recvae.ranking.alike import cosines
from recvae.recommender import Recommender
from recvae.registry import Entry
from recvae.training.loop import EpochReport, TrainOptions
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Naming


@dataclass(frozen=True, kw_only=True)
class CoClickOptions:
    shrinkage: float = option(5.0, "Added to an item's clicks where they divide.", ge=0)


class CoClick(Recommender):
    """Scores an item by how often it was clicked together with the history's items."""

    name = "co-click"
    model_defaults = CoClickOptions()

    def fit(self, train, *, validation=None, item_ids=None, titles=None, item_tags=None):
        matrix = self._begin_fit(train, Naming(item_ids, titles, item_tags))
        together = (matrix.T @ matrix).toarray().astype(np.float32)
        counts = together.diagonal() + self.config.model.shrinkage
        self.weights = torch.from_numpy(together / counts)
        return self

    def scores(self, histories: Any) -> Tensor:
        return torch.from_numpy(histories.toarray().astype(np.float32)) @ self.weights

    def similarity(self, items: Tensor) -> Tensor:
        return cosines(self.weights, items)

    def tensors(self) -> dict[str, Tensor]:
        return {"weights": self.weights}

    def expected(self) -> Mapping[str, Expected]:
        return {"weights": Expected((self.n_items, self.n_items))}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights = tensors["weights"]


class CoClickByEpochs(CoClick):
    """The same, made of more of the users in each epoch; it keeps no state to be resumed from."""

    name = "co-click-by-epochs"
    train_defaults = TrainOptions(epochs=3)
    contends = False

    def fit(self, train, *, validation=None, item_ids=None, titles=None, item_tags=None, folder=None, resume=False,
            overwrite=False, on_epoch=None, on_step=None):  # fmt: skip
        matrix, epochs = self._begin_fit(train, Naming(item_ids, titles, item_tags)), self.config.train.epochs
        best = None
        for epoch in range(1, epochs + 1):
            part = matrix[: max(1, len(range(matrix.shape[0])) * epoch // epochs)]
            self.weights = torch.from_numpy((part.T @ part).toarray().astype(np.float32))
            score = None if validation is None else validation(self)
            if best is None or score is None or score > best[0]:
                best, self.best_epoch = (score, self.weights), epoch
            if on_step is not None:
                on_step(1, 1)
            if on_epoch is not None:
                losses = {"all": {"loss": 0.0, "nll": 0.0}}
                is_best = self.best_epoch == epoch
                on_epoch(EpochReport(epoch, epochs, epoch, 0.0, losses, score, is_best, self.best_epoch, best[0]))
        self.weights, self.metrics = best[1], {} if validation is None else {"validation": best[0]}
        if folder is not None:
            self.save(folder, overwrite=overwrite)
        return self


class CoLike(CoClick):
    """The same of ratings: a rating counts for as much as it says."""

    name = "co-like"

    @classmethod
    def reads(cls, options):
        return ("ratings",)


def entry_of(kind: type[Recommender]) -> Entry:
    return Entry(kind.name, f"{__name__}:{kind.__name__}", kind.name.capitalize(), "nobody's paper")


ENTRIES = {kind.name: entry_of(kind) for kind in (CoClick, CoClickByEpochs)}
