"""A few steps under torch's DistributedDataParallel, each rank with users of items that no other rank's users have."""

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks
from recvae.nn.noise import Noise

USERS, ITEMS, STEPS, RANKS = 12, 20, 3, 2
NETWORKS = {
    "mult-vae": (MultVAENetwork, MultVAEOptions(hidden=(8,), latent=4, dropout=0.0), "all"),
    "recvae": (RecVAENetwork, RecVAEOptions(hidden=8, latent=4, layers=2, dropout=0.0), "encoder"),
    "recvae, decoder": (RecVAENetwork, RecVAEOptions(hidden=8, latent=4, layers=2, dropout=0.0), "decoder"),
}


class NoNoise(Noise):
    """Draws z = mu, so that one process and two can be compared."""

    def normal(self, like):
        return torch.zeros_like(like)


def clicks():
    """Return the clicks of step s in rows 2 s ... of each rank's half: other items in every step, and on every rank."""
    g = np.random.default_rng(3)
    dense = np.zeros((USERS, ITEMS), np.float32)
    for user in range(USERS):
        rank, step = divmod(user, USERS // RANKS)[0], user % (USERS // RANKS) // 2
        items = np.arange(rank * 10 + 3 * step, rank * 10 + 3 * step + 4) % ITEMS
        dense[user, items[g.permutation(4)[:3]]] = 1
    return Clicks(csr_array(dense))


class Loss(nn.Module):
    """The loss of a batch as a module's forward, which is what the wrapper takes."""

    def __init__(self, network, phase):
        super().__init__()
        self.network, self.phase = network, phase

    def forward(self, batch):
        return self.network.loss(self.phase, batch, 0.5, NoNoise(0)).total


def trained(name, ranks, *, wrapped, reclaim=True):
    """Return the weights after the steps, with the users of these ``ranks`` in each batch."""
    kind, options, phase = NETWORKS[name]
    network, data = kind(ITEMS, options, 5), clicks()
    network.begin_phase(phase, 0, data, 4)
    chosen = {parameter for p in network.phases() if p.name == phase for parameter in p.parameters}
    for parameter in network.parameters():
        parameter.requires_grad_(parameter in chosen)
    loss = Loss(network, phase)
    if wrapped:
        loss = DistributedDataParallel(loss)
    adam = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
    for step in range(STEPS):
        users = torch.tensor([rank * USERS // RANKS + 2 * step + n for rank in ranks for n in range(2)])
        n_clicks = int((data.indptr[users + 1] - data.indptr[users]).sum())
        loss(data.take(users, n_clicks)).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)
        for memory in network.gradient_memories() if reclaim else ():
            memory.reclaim()
    return {key: value.detach().clone() for key, value in network.state_dict().items()}


def steps(rank, folder):
    """Keep the weights that this rank has after the steps of every network."""
    found = {
        f"{name}, reclaim {reclaim}": trained(name, [rank], wrapped=True, reclaim=reclaim)
        for name in NETWORKS
        for reclaim in (True, False)
    }
    torch.save(found, folder / f"{rank}.pt")
