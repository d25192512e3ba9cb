"""The search for a blend's weights on validation users."""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.models.blend import COARSE, FINE, PASSES, REACH, Blend, Score, Weights, normalised
from recvae.recommender import Validation

SCORES_KEPT = 1 << 28  # by a search for weights, of all components together: 1 GiB


class Trials:
    """Scores weights on the validation users, each once: ``trials(weights) -> float``, higher is better.

    ``validation`` as for :meth:`~recvae.recommender.Recommender.fit`. Components' scores are kept from one trial to
    the next, up to ``keep`` numbers in all; what is beyond that is computed again for every trial. ``on_try`` is called
    with the number of trials after each. ``figures`` holds what was found so far, by weights.
    """

    def __init__(
        self,
        blend: Blend,
        validation: Validation,
        *,
        keep: int = SCORES_KEPT,
        on_try: Callable[[int], None] | None = None,
    ) -> None:
        kept = _Kept(keep, blend.device)
        self.blend = copy.copy(blend)
        self.blend.scorers = [kept.of(score) for score in blend.scorers]
        self.validation, self.on_try = validation, on_try
        self.figures: dict[Weights, float] = {}

    def __call__(self, weights: Sequence[float]) -> float:
        """Return the validation figure of the blend with ``weights``."""
        key = normalised(weights, len(self.blend.components))
        if key not in self.figures:
            self.figures[key] = self.validation(self.blend.with_weights(key))
            if self.on_try is not None:
                self.on_try(len(self.figures))
        return self.figures[key]

    def alone(self, place: int) -> float:
        """Return the validation figure of one component."""
        return self([float(other == place) for other in range(len(self.blend.components))])


def best_weights(trials: Trials) -> Weights:
    """Return the weights that validate best, at least as well as equal ones and as every component alone.

    From equal weights, one component's weight after the other is tried in steps of .05 from 0 to 1, the others keeping
    their proportions, until a pass over the components finds nothing better; then in steps of .01 around the best. Of
    two components this tries the whole grid. A metric of ranked lists is a noisy step function, for which a search
    that narrows an interval is not safe. Nothing is random, and of equal figures the first stays.
    """
    n = len(trials.blend.components)
    best = normalised([1.0] * n, n)
    for shares in (_whole, _near):
        for _ in range(PASSES):
            before = best
            for place in range(n):
                line = [_with_share(best, place, share) for share in shares(best[place])]
                best = max([best, *line], key=trials)
            if best == before:
                break
    return best


class _Kept:
    """Component scores by the histories they answer, up to a number of values."""

    def __init__(self, values: int, device: torch.device) -> None:
        self.left, self.device = values, device

    def of(self, score: Score) -> Score:
        """Return ``score`` with a memory; callers must not change the arrays that it returns."""
        kept: dict[bytes, Tensor] = {}

        def remembered(histories: csr_array) -> Tensor:
            key = _content(histories)
            if key not in kept:
                scores = score(histories).to(self.device)
                if scores.numel() > self.left:
                    return scores
                self.left -= scores.numel()
                kept[key] = scores
            return kept[key]

        return remembered


def _content(matrix: csr_array) -> bytes:
    """Return a digest of a canonical CSR: rows that are cut anew from the same matrix are the same histories."""
    digest = hashlib.sha256(repr((matrix.shape, matrix.dtype)).encode())
    for part in (matrix.indptr, matrix.indices, matrix.data):
        digest.update(np.ascontiguousarray(part).data)
    return digest.digest()


def _whole(share: float) -> list[float]:
    del share
    return [step / round(1 / COARSE) for step in range(round(1 / COARSE) + 1)]


def _near(share: float) -> list[float]:
    shares = [round(share + step * FINE, 4) for step in range(-REACH, REACH + 1)]
    return [near for near in shares if 0 <= near <= 1]


def _with_share(weights: Weights, place: int, share: float) -> Weights:
    """Return weights with one set to ``share``; the others keep their proportions, or share alike where all are 0."""
    others = [0.0 if other == place else weight for other, weight in enumerate(weights)]
    if not any(others):
        others = [float(other != place) for other in range(len(weights))]
    total = math.fsum(others)
    moved = [round((1 - share) * weight / total, 4) for weight in others]
    moved[place] = share
    return normalised(moved, len(moved))
