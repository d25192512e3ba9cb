"""A batch in portions: each of several processes with the same items takes some of its users; gradients are summed.

Every loss is a mean over the users of a batch. So the loss of all users is the sum of the portions' losses, each times
its share of the users, and so are the gradients. The noise is that of the whole batch, of which each portion has its
users' rows. This module knows no way to talk to other processes: :mod:`recvae.training.distributed` has one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from recvae.nn.noise import Noise


class Replicas(ABC):
    """The ``count`` processes that have the same items as this one, which is number ``index``, from 0, among them."""

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count

    def bounds(self, n_users: int) -> tuple[int, int]:
        """Return the first user, and the one after the last, that this process takes of a batch's ``n_users``.

        Of a batch with fewer users than processes each takes all: then no process has an empty batch.
        """
        if n_users < self.count:
            return 0, n_users
        return self.index * n_users // self.count, (self.index + 1) * n_users // self.count

    @abstractmethod
    def add_up(self, parts: Iterable[Tensor]) -> None:
        """Replace each tensor by the sum of all these processes' ones, which all of them pass in the same order."""


@dataclass(frozen=True)
class Portion:
    """The users from ``start`` to before ``stop`` of a batch of B; ``lengths`` int64 (B,) counts each user's clicks."""

    replicas: Replicas
    start: int
    stop: int
    lengths: Tensor

    @property
    def n_users(self) -> int:
        """The number of users in the whole batch."""
        return len(self.lengths)

    @property
    def share(self) -> float:
        """The weight of the mean over these users in the sum over all processes."""
        if self.n_users < self.replicas.count:
            return 1 / self.replicas.count
        return (self.stop - self.start) / self.n_users

    @property
    def here(self) -> slice:
        """The places of these users in the batch."""
        return slice(self.start, self.stop)


class PortionNoise(Noise):
    """The draws for a portion: those that ``noise`` makes for the whole batch, of which it has these users' rows."""

    def __init__(self, noise: Noise, portion: Portion) -> None:
        self.device, self.generator, self.portion = noise.device, noise.generator, portion

    def normal(self, like: Tensor) -> Tensor:
        """Return the users' rows, (S B', ...) for S draws of each, of the whole batch's."""
        return self._rows(super().normal(self._whole(like)), like)

    def users_kept(self, like: Tensor, rate: float) -> Tensor:
        """Return the users' entries of the whole batch's mask."""
        return self._rows(super().users_kept(self._whole(like), rate), like)

    def _whole(self, like: Tensor) -> Tensor:
        """Return a tensor, without values, of all users' draws: (S, B, ...) from (S B', ...)."""
        here = self.portion.stop - self.portion.start
        return like.new_empty(len(like) // here, self.portion.n_users, *like.shape[1:])

    def _rows(self, whole: Tensor, like: Tensor) -> Tensor:
        return whole[:, self.portion.here].reshape(like.shape)


def counts_between(lengths: Tensor, order: Tensor, bounds: list[tuple[int, int]]) -> list[int]:
    """Return the clicks of the users between some places of an ``order``, whose clicks ``lengths`` counts.

    It waits for the device once.
    """
    ends = torch.cat((lengths.new_zeros(1), lengths[order].cumsum(0)))
    places = torch.tensor(bounds, dtype=torch.int64).reshape(-1, 2).to(lengths.device)
    counts: list[int] = (ends[places[:, 1]] - ends[places[:, 0]]).tolist()
    return counts
