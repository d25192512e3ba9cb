"""The peer named ``reference``: RecVAE and Mult-VAE as an ordinary dense PyTorch program trains them.

Written from the papers (arXiv 1912.11160 and 1802.05814): dense batches from the host, a dense first layer, a dense
log-softmax; as in RecVAE's released program the frozen old encoder runs in every step, every backward pass goes through
both halves, and the KL term is computed in the decoder's passes too. agreement.py checks that its losses are ours.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recvae.nn.network import Network
from recvae.nn.noise import Noise

TORCH: Any = SimpleNamespace(permutation=torch.randperm, dropout=F.dropout, normal=torch.randn_like)


class SharedDraws(Noise):
    """The draws that our training loop makes from the same seed, in its order: slow, and for comparing losses only."""

    def dropout(self, values: Tensor, rate: float) -> Tensor:
        clicked = values != 0  # row by row, columns ascending: the order of the CSR
        out = torch.zeros_like(values)
        out[clicked] = super().dropout(values[clicked], rate)
        return out


class Reference(nn.Module, ABC):
    """A model with its data and its optimisers; ``matrix`` is CSR (n_users, n_items) and stays on the host.

    Each model has ``epoch``, which yields each step's loss, and says ``names``: of its layers, and of ours.
    """

    learning_rate: float
    dropout = 0.5
    draws: Any = TORCH  # torch's own functions and global generator, or SharedDraws
    names: dict[str, str]

    def __init__(self, matrix: Any, device: str) -> None:
        super().__init__()
        self.matrix, self.device = matrix, device

    @abstractmethod
    def epoch(self, batch_size: int) -> Iterator[Tensor]:
        """Train for one pass over the users; yield each step's loss."""

    def adam_of(self, module: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(module.parameters(), lr=self.learning_rate)

    def batch(self, rows: Any) -> Tensor:
        """Return the users ``rows`` as a dense float32 (B, I) tensor."""
        return torch.from_numpy(self.matrix[rows].toarray().astype(np.float32, copy=False)).to(self.device)

    def one_pass(self, batch_size: int) -> Iterator[Any]:
        """Yield the rows of each batch of a pass over shuffled users."""
        order = self.draws.permutation(self.matrix.shape[0]).cpu().numpy()
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]

    def load_from(self, network: Network) -> None:
        """Take the weights of our network; a Mult-VAE must have one hidden layer."""
        theirs = network.state_dict()
        state = {f"{a}.{part}": theirs[f"{b}.{part}"] for a, b in self.names.items() for part in ("weight", "bias")}
        for mine, name in self.names.items():
            if name.endswith("first"):  # ours is a table with a row per item, and a Linear's has a column
                state[f"{mine}.weight"] = state[f"{mine}.weight"].T
        self.load_state_dict(state)


def log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """Multinomial, (B,), from dense logits and clicks (B, I)."""
    return (F.log_softmax(logits, dim=1) * x).sum(1)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mu, exp(logvar)), per dimension."""
    return -0.5 * (logvar + math.log(2 * math.pi) + (z - mu).pow(2) / logvar.exp())


class Encoder(nn.Module):
    """Densely connected layers: h_j = LN(swish(W_j h_(j-1) + h_1 + ... + h_(j-1))), then two linear heads."""

    def __init__(self, n_items: int, hidden: int, latent: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(hidden if j else n_items, hidden) for j in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))
        self.mu, self.logvar = nn.Linear(hidden, latent), nn.Linear(hidden, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From normalised, perhaps dropped, rows (B, I) to mu and log-variance, (B, K) each."""
        h = self.norms[0](F.silu(self.layers[0](x)))
        skips = h
        for layer, norm in zip(self.layers[1:], self.norms[1:], strict=True):
            h = norm(F.silu(layer(h) + skips))
            skips = skips + h
        return self.mu(h), self.logvar(h)


class ReferenceRecVAE(Reference):
    """Composite prior, KL weight gamma per click, encoder and decoder trained in turn by an Adam each."""

    learning_rate, gamma, layers = 5e-4, 0.005, 5

    def __init__(self, matrix: Any, *, hidden: int = 600, latent: int = 200, device: str = "cpu") -> None:
        super().__init__(matrix, device)
        self.encoder = Encoder(matrix.shape[1], hidden, latent, self.layers)
        self.decoder = nn.Linear(latent, matrix.shape[1])
        self.old_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.to(device)
        self.encoder_adam, self.decoder_adam = self.adam_of(self.encoder), self.adam_of(self.decoder)
        names = {name: name for name in ("mu", "logvar", *(f"norms.{j}" for j in range(self.layers)))}
        names |= {f"layers.{j}": f"inner.{j - 1}" if j else "first" for j in range(self.layers)}
        sides = ("encoder", "old_encoder")
        self.names = {f"{side}.{a}": f"encoder.{b}" for side in sides for a, b in names.items()}
        self.names["decoder"] = "decoder"

    def encoder_step(self, rows: Any) -> Tensor:
        """Train the encoder on these users; return the loss that was minimised."""
        return self._step(rows, self.encoder_adam, self.dropout)[0]

    def decoder_step(self, rows: Any) -> Tensor:
        """Train the decoder on these users; return the negative log-likelihood: the KL term does not depend on it."""
        return self._step(rows, self.decoder_adam, 0.0)[1]

    def _step(self, rows: Any, adam: torch.optim.Adam, dropout: float) -> tuple[Tensor, Tensor]:
        x = self.batch(rows)
        clean = F.normalize(x)
        mu, logvar = self.encoder(self.draws.dropout(clean, dropout) if dropout else clean)
        z = mu + self.draws.normal(mu) * torch.exp(0.5 * logvar)
        nll = -log_likelihood(self.decoder(z), x).mean()
        kl = (log_normal(z, mu, logvar) - self._log_prior(z, clean)).sum(1)
        loss = nll + (self.gamma * x.sum(1) * kl).mean()
        self.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        adam.step()
        return loss.detach(), nll.detach()

    def _log_prior(self, z: Tensor, clean: Tensor) -> Tensor:
        with torch.no_grad():
            mu, logvar = self.old_encoder(clean)
        zero = torch.zeros_like(z)
        parts = [
            math.log(3 / 20) + log_normal(z, zero, zero),
            math.log(3 / 4) + log_normal(z, mu, logvar),
            math.log(1 / 10) + log_normal(z, zero, zero + 10),
        ]
        return torch.logsumexp(torch.stack(parts), dim=0)

    def epoch(self, batch_size: int) -> Iterator[Tensor]:
        for _ in range(3):
            yield from map(self.encoder_step, self.one_pass(batch_size))
        self.old_encoder.load_state_dict(self.encoder.state_dict())
        yield from map(self.decoder_step, self.one_pass(batch_size))


class ReferenceMultVAE(Reference):
    """I-600-2·200, 200-600-I, tanh between; the KL's weight grows by 1 / total an update, up to its cap."""

    learning_rate, cap, total = 1e-3, 0.2, 200_000

    def __init__(self, matrix: Any, *, hidden: int = 600, latent: int = 200, device: str = "cpu") -> None:
        super().__init__(matrix, device)
        self.updates, items = 0, matrix.shape[1]
        self.encoder = nn.Sequential(nn.Linear(items, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, items))
        self.to(device)
        self.adam = self.adam_of(self)
        self.names = {
            "encoder.0": "first",
            "encoder.2": "encoder.0",
            "decoder.0": "decoder.0",
            "decoder.2": "decoder.1",
        }

    def step(self, rows: Any) -> Tensor:
        """Train on these users; return the loss."""
        x = self.batch(rows)
        mu, logvar = self.encoder(self.draws.dropout(F.normalize(x), self.dropout)).chunk(2, dim=1)
        z = mu + self.draws.normal(mu) * torch.exp(0.5 * logvar)
        nll = -log_likelihood(self.decoder(z), x).mean()
        kl = 0.5 * (logvar.exp() + mu.pow(2) - 1 - logvar).sum(1).mean()
        loss: Tensor = nll + min(self.cap, self.updates / self.total) * kl
        self.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without types
        self.adam.step()
        self.updates += 1
        return loss.detach()

    def epoch(self, batch_size: int) -> Iterator[Tensor]:
        yield from map(self.step, self.one_pass(batch_size))
