"""The mean losses of a training phase, summed on the device."""

import torch

from recvae.errors import WorkError
from recvae.files import Document, JsonObject
from recvae.nn.kernels import has_float64
from recvae.nn.network import Loss


class Meter:
    """Sums of a phase's losses, kept on the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        double = has_float64(device)
        # Total, nll and kl, weighted by users; without float64, the rounding error of each sum is kept in ``lost``.
        self.sums = torch.zeros(3, dtype=torch.float64 if double else torch.float32, device=device)
        self.lost = None if double else torch.zeros_like(self.sums)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.users = 0
        self.has_kl = False
        self.beta: float | None = None

    def values(self) -> JsonObject:
        """Wait for the device and return the sums so far, as plain values that :meth:`restore` takes."""
        lost = None if self.lost is None else self.lost.tolist()
        sums = {"sums": self.sums.tolist(), "lost": lost, "finite": bool(self.finite)}
        return {**sums, "users": self.users, "has_kl": self.has_kl, "beta": self.beta}

    def restore(self, values: Document) -> None:
        """Go on from the sums that :meth:`values` returned on the same type of device."""
        self.sums.copy_(torch.tensor(values["sums"], dtype=self.sums.dtype))
        if self.lost is not None:
            self.lost.copy_(torch.tensor(values["lost"], dtype=self.lost.dtype))
        self.finite.fill_(values["finite"])
        self.users, self.has_kl, self.beta = values["users"], values["has_kl"], values["beta"]

    def add(self, loss: Loss, users: int) -> None:
        """Add the losses of one update, means over ``users`` users."""
        kl = loss.nll.new_zeros(()) if loss.kl is None else loss.kl
        parts = torch.stack((loss.total, loss.nll, kl)).detach()
        if self.lost is None:
            self.sums += parts * users
        else:  # Kahan and Neumaier's compensated sum
            added = parts.float() * users
            total = self.sums + added
            larger = self.sums.abs() >= added.abs()
            self.lost += torch.where(larger, (self.sums - total) + added, (added - total) + self.sums)
            self.sums = total
        self.finite &= parts.isfinite().all()
        self.users += users
        self.has_kl = loss.kl is not None
        self.beta = loss.beta

    def read(self, phase: str, epoch: int) -> dict[str, float]:
        """Wait for the device and return the means; raise :class:`WorkError` where any loss was not finite."""
        if not self.finite.item():
            raise WorkError(
                f"The loss stopped being a finite number in epoch {epoch} ({phase} phase). "
                "Train again with a smaller train.learning_rate; the best model so far is kept."
            )
        sums = self.sums.tolist()
        if self.lost is not None:
            sums = [one + lost for one, lost in zip(sums, self.lost.tolist(), strict=True)]
        total, nll, kl = (one / self.users for one in sums)
        means = {"loss": total, "nll": nll}
        if self.has_kl:
            means["kl"] = kl
        if self.beta is not None:
            means["beta"] = self.beta
        return means
