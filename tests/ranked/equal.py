"""Networks trained by one process and by several that have a part of the items each, to be compared."""

import numpy as np
import torch
from scipy.sparse import csr_array

from recvae.models.conditional import ConditionalVAENetwork, ConditionalVAEOptions
from recvae.models.mult import MultDAENetwork, MultDAEOptions, MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn import priors
from recvae.nn.batches import Clicks
from recvae.nn.held_clicks import HeldClicks, held_batch
from recvae.nn.noise import Noise
from recvae.options import TrainOptions
from recvae.queries import Query
from recvae.ranking.held import rank_held
from recvae.testing import random_clicks
from recvae.training.gradients import loss_and_gradients
from recvae.training.loop import Hooks, train

USERS, ITEMS, TAGS = 45, 61, 4
TRAIN = TrainOptions(epochs=2, batch_size=10, learning_rate=0.01)
# Batches of 11 users, which 2 and 4 processes share unequally, and a last one of a single user.
UNEVEN = TrainOptions(epochs=4, batch_size=11, learning_rate=0.01)


def dae(**more):
    return MultDAENetwork, MultDAEOptions(latent=6, **more)


def vae(**more):
    return MultVAENetwork, MultVAEOptions(hidden=(8,), latent=5, anneal="share", **more)


def recvae(**more):
    return RecVAENetwork, RecVAEOptions(hidden=8, latent=5, layers=3, gamma=0.01, **more)


def conditional(**more):
    return ConditionalVAENetwork, ConditionalVAEOptions(hidden=(8,), latent=5, **more)


FEW = {
    "mult-dae": dae(l2=1e-3),
    "mult-vae": vae(),
    "mult-vae, bernoulli, subset": vae(likelihood="bernoulli", corruption="subset"),
    "recvae": recvae(),
    "recvae, gaussian": recvae(likelihood="gaussian", confidence=3.0),
    "conditional-vae": conditional(),
}
EVERY = {
    **FEW,
    **{f"mult-dae, {name}": dae(likelihood=name) for name in ("bernoulli", "gaussian")},
    **{
        f"{make.__name__}, {likelihood}, {prior}": make(likelihood=likelihood, prior=prior, pseudo_inputs=18)
        for make in (vae, recvae)
        for likelihood in ("multinomial", "bernoulli", "gaussian")
        for prior in ("standard", "composite", "vamp")
    },
    "mult-vae, three samples": vae(samples=3, gamma=0.01),
    "mult-vae, flips": vae(corruption="flips", dropout=0.4),
    "mult-vae, weighted": vae(weighted=True),
    "mult-vae, slim": vae(slim_every=1, slim_l2=2.0, slim_threshold=2),
    "recvae, released": recvae(variant="released", beta=0.3),
    "recvae, slim": recvae(slim_every=2, slim_l2=2.0),
    "recvae, weighted": recvae(weighted=True, l2=1e-3),
    "recvae, no table": recvae(),
    "conditional-vae, gaussian": conditional(likelihood="gaussian"),
}


def matrix(*, weighted=False):
    """Return clicks of which the first items have the most, and of some users without any, as canonical CSR."""
    dense = random_clicks(USERS, ITEMS, 0.15, seed=8).toarray()
    dense[3] = 0
    if weighted:
        dense *= np.random.default_rng(2).uniform(0.3, 2.0, dense.shape)
    return csr_array(dense)


def made(cases, name, items):
    """Return the network of a case and its conditions, of all items or of a part."""
    kind, options = cases[name]
    if kind is not ConditionalVAENetwork:
        return kind(items, options, 5)
    network = kind(items, options, 5, TAGS + 2)
    g = np.random.default_rng(4)
    of_items = torch.from_numpy(g.integers(0, TAGS, 2 * ITEMS))
    of_users = torch.from_numpy(g.integers(TAGS, TAGS + 2, (USERS, 1)))
    network.learn_from((torch.arange(ITEMS + 1) * 2, of_items), of_users)
    return network


def clicks_of(cases, name, shard, replicas=None):
    """Return the clicks of a case, on all items or on those here."""
    weighted = getattr(cases[name][1], "weighted", False)
    data = matrix(weighted=weighted)
    if shard is None:
        return Clicks(data, weighted=weighted)
    return HeldClicks(data, shard, weighted=weighted, replicas=replicas)


def trained(cases, name, shard=None, replicas=None, *, dtype=torch.float64, train_options=TRAIN):
    """Return each epoch's losses and the weights after training, of all items or of those here."""
    network = made(cases, name, ITEMS if shard is None else shard).to(dtype)
    clicks, reports = clicks_of(cases, name, shard, replicas), []
    before, priors.TABLE_VALUES = priors.TABLE_VALUES, 0 if "no table" in name else priors.TABLE_VALUES
    try:
        train(network, clicks, train_options, seed=11, hooks=Hooks(on_epoch=reports.append))
    finally:
        priors.TABLE_VALUES = before
    return [report.phases for report in reports], dict(network.named_parameters()), network.item_axes()


def of_one_step(cases, name, shard=None, replicas=None, *, batch_size=16):
    """Return losses and gradients in float32 of the first batch in each phase."""
    network = made(cases, name, ITEMS if shard is None else shard)
    clicks = clicks_of(cases, name, shard, replicas)
    losses, gradients, noise = {}, {}, Noise(3)
    for phase in network.phases():
        network.begin_phase(phase.name, 0, clicks, batch_size)
        for parameter in network.parameters():
            parameter.requires_grad_(any(parameter is one for one in phase.parameters))
            parameter.grad = None
        batch = next(clicks.shuffled(batch_size, noise))
        loss = loss_and_gradients(network, phase.name, batch, 0.4, noise)
        losses[phase.name] = loss.total.item()
        for key, parameter in network.named_parameters():
            if parameter.grad is not None:
                gradients[f"{phase.name}.{key}"] = parameter.grad.clone()
        for memory in network.gradient_memories():
            memory.reclaim()
    parts = {f"{phase.name}.{key}": dim for phase in network.phases() for key, dim in network.item_axes().items()}
    return losses, gradients, parts


def whole(found, columns, key):
    """Return a tensor of all items from the ones of each rank."""
    dim = found[0][2].get(key)
    if dim is None:
        for of_rank in found[1:]:
            assert torch.equal(of_rank[1][key], found[0][1][key]), f"{key} is not the same on all ranks"
        return found[0][1][key]
    order = torch.cat(columns).argsort()
    return torch.cat([of_rank[1][key] for of_rank in found], dim).index_select(dim, order)


def _kept(rank, folder, cases, data_parallel=1, **options):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.distributed_c10d import get_world_size

    from recvae.training.distributed import MeshReplicas, MeshShard

    shape = (data_parallel, get_world_size() // data_parallel)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("users", "items"))
    shard, replicas = MeshShard(mesh["items"], ITEMS), MeshReplicas(mesh["users"]) if data_parallel > 1 else None
    found = {
        name: (trained(cases, name, shard, replicas, **options), of_one_step(cases, name, shard, replicas))
        for name in cases
    }
    torch.save((shard.columns, found), folder / f"{rank}-{data_parallel}.pt")
    return shard


QUERIES = [
    {"k": 5},
    {"k": ITEMS + 3},
    {"k": 1, "exclude_seen": False},
    {"k": ITEMS - 1},
]


def scores_with_ties(histories):
    """Return scores of few different values, some of them -inf or -0, exact in any order of computation."""
    item = torch.arange(ITEMS)
    user = torch.from_numpy(histories.sum(1).astype("int64"))[:, None]
    scores = ((item * 7 + user * 3) % 5).float()
    scores[:, ::11] = -torch.inf
    return torch.where(scores == 0, -scores, scores)


def lists(shard):
    """Return the answers to QUERIES by this process's part of the scores."""
    data, found = matrix(), []
    for words in QUERIES:
        for rows in (data, data[:2]):

            def score(part):
                batch = held_batch(part.histories, shard)
                return batch, scores_with_ties(part.histories)[:, shard.columns]

            answer = rank_held(score, Query(rows, **words), shard)
            found.append((torch.from_numpy(answer.ids), torch.from_numpy(answer.scores)))
    return found


def few(rank, folder):
    """Train the networks of FEW, in parts of the items and then in portions of each batch's users, and rank."""
    torch.save(lists(_kept(rank, folder, FEW)), folder / f"lists-{rank}.pt")
    _kept(rank, folder, FEW, 2, train_options=UNEVEN)


def every(rank, folder):
    """Train the networks of EVERY."""
    _kept(rank, folder, EVERY)


def every_of_two(rank, folder):
    """Train the networks of EVERY, each part of the items in two processes."""
    _kept(rank, folder, EVERY, 2, train_options=UNEVEN)


def every_of_four(rank, folder):
    """Train the networks of EVERY, each part of the items in four processes."""
    _kept(rank, folder, EVERY, 4, train_options=UNEVEN)
