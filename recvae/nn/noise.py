"""Every random draw of a training run comes from one seeded generator on the device.

Prediction passes no :class:`Noise` at all, so dropout and sampling cannot be left on by mistake.
"""

import torch
from torch import Tensor


class Noise:
    """Draws of one training run: user orders, corruptions of the input and latent noise.

    ``seed`` fixes the sequence for one device type and one torch version.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def permutation(self, n: int) -> Tensor:
        """Return a random order of ``0 .. n - 1``, int64 (n,)."""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def dropout(self, values: Tensor, rate: float) -> Tensor:
        """Inverted dropout: zero each value with probability ``rate``, scale the others by ``1 / (1 - rate)``.

        Drawn for the clicks only: a zero entry stays zero under dropout, so the distribution is exactly that of dropout
        on the dense row.
        """
        if rate == 0:
            return values
        return values * self.kept(values, rate) / (1 - rate)

    def kept(self, values: Tensor, rate: float) -> Tensor:
        """Return a mask of the shape of ``values``, each entry False with probability ``rate``."""
        return torch.empty_like(values).uniform_(generator=self.generator) >= rate  # faster than a Bernoulli draw

    def users_kept(self, like: Tensor, rate: float) -> Tensor:
        """Return :meth:`kept` of one entry for each user of a batch, (B,)."""
        return self.kept(like, rate)

    def uniform(self, like: Tensor) -> Tensor:
        """Return even draws from [0, 1) of the shape, type and device of ``like``."""
        return torch.empty_like(like).uniform_(generator=self.generator)

    def counts(self, means: Tensor) -> Tensor:
        """Return a Poisson draw for each mean, in the type of ``means``."""
        return torch.poisson(means, self.generator)

    def integers(self, n: int, below: int) -> Tensor:
        """Return ``n`` evenly drawn whole numbers from 0 to ``below - 1``, int64 (n,)."""
        return torch.randint(below, (n,), generator=self.generator, device=self.device)

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal draws of the shape, type and device of ``like``, whose rows are a batch's users."""
        return torch.empty_like(like).normal_(generator=self.generator)

    def state(self) -> Tensor:
        """Return the generator's state, uint8, on the CPU."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Continue from a state that :meth:`state` returned."""
        self.generator.set_state(state)
