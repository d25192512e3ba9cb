"""Corrupted inputs: the encoder sees a damaged history, and the clean one is to be reconstructed.

Without latent noise that is a denoising autoencoder (Vincent et al. 2008). With it, it is the denoising VAE of Im, Ahn,
Memisevic and Bengio, AAAI 2017, arXiv 1511.06406. The corruption p(x~ | x) turns the posterior into a mixture,
q~(z | x) = sum_x~ q(z | x~) p(x~ | x), whose density cannot be computed; the objective is

    L_dvae = E_{p(x~ | x)} E_{q(z | x~)} [ log p(x, z) - log q(z | x~) ],

the mean over corruptions of E_{q(z | x~)} log p(x | z) - KL(q(z | x~) || p(z)). For each x~, q(z | x~) is a density
like any other, so each term is at most log p(x), by KL(q(z | x~) || p(z | x)), and so is their mean. Without corruption
it is the plain ELBO. KL is convex, so the ELBO of the mixture itself lies between:

    L_dvae <= E_{q~(z | x)} [ log p(x, z) - log q~(z | x) ] <= log p(x).

(The paper's theorem has the first two the other way round; the tests compute all three.)
"""

from collections.abc import Callable

import torch
from torch import Tensor

from recvae.nn.batches import Batch
from recvae.nn.noise import Noise

# Flips throws this many clicks on average per click of a user at most, and has room for this many per click of a batch.
MOST_THROWN, ROOM = 1.5, 2


def corrupted(batch: Batch, kind: str, rate: float, noise: Noise) -> tuple[Batch, Tensor]:
    """Return a batch of the entries that enter the first layer, N' of them, and their values, float32 (N',).

    - ``dropout``: x / ||x||, then each click dropped with probability p = ``rate``, the others scaled by 1 / (1 - p),
      so that the mean of the input stays: Liang et al. 2018.
    - ``subset``: each click dropped with probability p, then x~ / ||x~||: the input of a shorter history.
    - ``flips``: each click dropped with probability p, each of the other items clicked with probability
      p n_u / (I - n_u), independently, then x~ / ||x~||. The salt and pepper noise of Im et al. 2017, but with a rate
      that keeps the expected number of clicks: at one rate for all items a history would drown in noise. Added clicks
      have the mean weight of the user's own. A user with a large part of the catalogue (a quarter for p = 0.9, half
      for p = 0.5) gets fewer: at most 1.5 n_u are thrown on average.

    A history without any click left is all zeros. Entries with value 0 have no effect.
    """
    if rate == 0:
        return batch, batch.dropped(batch.normalised(), rate, noise)
    return CORRUPTIONS[kind](batch, rate, noise)


def _dropout(batch: Batch, rate: float, noise: Noise) -> tuple[Batch, Tensor]:
    return batch, batch.dropped(batch.normalised(), rate, noise)


def _subset(batch: Batch, rate: float, noise: Noise) -> tuple[Batch, Tensor]:
    return _of_norm_1(batch, batch.values * batch.kept(rate, noise))


def _flips(batch: Batch, rate: float, noise: Noise) -> tuple[Batch, Tensor]:
    return _of_norm_1(*_with_additions(batch, batch.values * batch.kept(rate, noise), rate, noise))


def _of_norm_1(batch: Batch, values: Tensor) -> tuple[Batch, Tensor]:
    norms = batch.joined(batch.row_sum(values.square())).sqrt().clamp_(min=torch.finfo(values.dtype).tiny)  # (B,)
    return batch, values / norms[batch.rows]


def _with_additions(batch: Batch, values: Tensor, rate: float, noise: Noise) -> tuple[Batch, Tensor]:
    """Return the clicks with their ``values``, joined with random further clicks of the same users.

    Clicks are thrown at items: independent Poisson numbers of throws with mean t for each item are the same as a
    Poisson total with mean I t, each throw at a uniformly drawn item. An item is hit with probability 1 - exp(-t), so
    that t = -log(1 - r) gives r. The number of throws is fixed, so that nothing waits for the device; throws beyond the
    drawn total, at clicked items, and at items that were hit before get the value 0.
    """
    n_users, n_items, whole, portion = len(batch), batch.n_items, batch.whole, batch.portion
    if whole is not None:
        n_items = whole.shard.n_items
    lengths = (batch.lengths if whole is None else whole.lengths).to(values.dtype)
    weights = torch.cat((batch.totals / lengths.clamp(min=1), values.new_zeros(1)))  # (B + 1,)
    if portion is not None:  # throws are made for all users of the batch
        lengths = portion.lengths.to(values.dtype)
    hit = (rate * lengths / (n_items - lengths)).clamp_(max=1.0)  # r, of each user
    means = torch.minimum(-n_items * torch.log1p(-hit), MOST_THROWN * lengths)
    n_clicks = len(values) if whole is None else whole.n_clicks
    n_throws = ROOM * n_clicks + 64  # at least nine standard deviations above the mean of any batch
    place = torch.arange(n_throws, device=values.device)
    # The number of users marks a throw beyond the total.
    users = torch.searchsorted(noise.counts(means).long().cumsum_(0), place, right=True)
    columns = noise.integers(n_throws, n_items)
    if whole is not None:  # of all processes' throws, those at the items here
        columns = whole.shard.rows.to(columns.device)[columns]
        here = columns >= 0
        users, columns, n_items = users[here], columns[here], batch.n_items
    if portion is not None:  # of all users' throws, those of the users here
        here = (users >= portion.start) & (users < portion.stop)
        users, columns = users[here] - portion.start, columns[here]
    cells = torch.cat((batch.cells, users * n_items + columns))
    cells, order = cells.sort(stable=True)  # a click before the throws at it
    values = torch.cat((values, weights[users]))[order] * (cells.diff(prepend=cells.new_full((1,), -1)) > 0)
    offsets = torch.searchsorted(cells, torch.arange(n_users + 1, device=cells.device) * n_items)
    offsets[-1] = len(cells)  # throws beyond the total are stored with the last user
    rows = (cells // n_items).clamp_(max=n_users - 1)
    return Batch(batch.users, offsets, rows, cells % n_items, values, n_items, repeats=True, whole=whole), values


CORRUPTIONS: dict[str, Callable[[Batch, float, Noise], tuple[Batch, Tensor]]] = {
    "dropout": _dropout,
    "flips": _flips,
    "subset": _subset,
}
"""Each corruption by its name, as :func:`corrupted` describes it."""
