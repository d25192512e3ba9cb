"""What several processes send and how much memory they take: see tests/recvae/test_scale.py."""

import json
import resource

import numpy as np
import torch
import torch.distributed as dist
from scipy.sparse import csr_array
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from recvae.models.mult import MultVAENetwork, MultVAEOptions
from recvae.models.recvae import RecVAENetwork, RecVAEOptions
from recvae.nn.batches import Clicks
from recvae.nn.held_clicks import HeldClicks
from recvae.options import TrainOptions
from recvae.testing import random_clicks
from recvae.training.distributed import MeshReplicas, MeshShard
from recvae.training.loop import Hooks, _Loop

BATCH, HIDDEN, LATENT = 32, 24, 10
USERS = 4 * BATCH


class Sent(TorchDispatchMode):
    """Counts the bytes that go into collectives: into DTensor's ``bytes``, and ``in_place`` into torch.distributed's.

    The former are those among the parts of the items, the latter the sums over the processes with the same items.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.in_place = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace in ("_c10d_functional", "_dtensor") and func._opname.startswith(("all_", "reduce_")):
            self.bytes += sum(a.numel() * a.element_size() for a in args if isinstance(a, torch.Tensor))
        if func.namespace == "c10d":
            self.in_place += sum(a.numel() * a.element_size() for a in args[0])
        return func(*args, **(kwargs or {}))


def networks(items):
    """Return a network of each kind."""
    return {
        "recvae": RecVAENetwork(items, RecVAEOptions(hidden=HIDDEN, latent=LATENT, layers=2), 1),
        "mult-vae": MultVAENetwork(items, MultVAEOptions(hidden=(HIDDEN,), latent=LATENT), 1),
    }


def sent(rank, folder, data_parallel=1):
    """Keep the bytes that one update of each phase sends, by network, phase and number of items."""
    shape = (data_parallel, dist.get_world_size() // data_parallel)
    mesh, found = init_device_mesh("cpu", shape, mesh_dim_names=("users", "items")), {}
    for n_items in (40, 400):
        shard, replicas = MeshShard(mesh["items"], n_items), MeshReplicas(mesh["users"]) if data_parallel > 1 else None
        for name, network in networks(shard).items():
            clicks = HeldClicks(random_clicks(USERS, n_items, 0.1, seed=1), shard, replicas=replicas)
            loop = _Loop(network, clicks, TrainOptions(epochs=1, batch_size=BATCH), 3, Hooks())
            for phase in loop.phases:
                for parameter in network.parameters():
                    parameter.requires_grad_(any(parameter is one for one in phase.parameters))
                network.begin_phase(phase.name, 0, clicks, BATCH)
                with Sent() as counted:
                    loop._update(phase, next(loop._batches(1, None)))
                found[f"{name} {phase.name} {n_items}"] = counted.bytes
                trained = sum(parameter.numel() for parameter in phase.parameters)
                found[f"{name} {phase.name} {n_items} gradients"] = [counted.in_place, 4 * trained]
    (folder / f"{rank}.json").write_text(json.dumps(found))


def sent_by_two(rank, folder):
    """Keep the bytes where each part of the items is in two processes."""
    sent(rank, folder, 2)


def large_clicks(n_users, n_items, per_user):
    """Return random clicks, as canonical CSR."""
    g = np.random.default_rng(1)
    columns = np.sort(g.integers(0, n_items, (n_users, per_user)).astype(np.int32), axis=1)
    columns += np.arange(per_user, dtype=np.int32)  # strictly ascending
    np.minimum(columns, n_items - per_user + np.arange(per_user, dtype=np.int32), out=columns)
    data = np.ones(columns.size, np.float32)
    return csr_array((data, columns.ravel(), np.arange(n_users + 1) * per_user), shape=(n_users, n_items))


def memory(rank, folder):
    """Keep the peak memory of two updates of each phase of a RecVAE; the sizes are in sizes.json."""
    sizes = json.loads((folder / "sizes.json").read_text())
    ranks, n_items, n_users = dist.get_world_size(), sizes["items"], sizes["users"]
    options = RecVAEOptions(hidden=sizes["hidden"], latent=sizes["latent"])
    before = _peak()
    data = large_clicks(n_users, n_items, sizes["clicks_per_user"])
    if ranks > 1:
        items = MeshShard(init_device_mesh("cpu", (ranks,)), n_items)
        network, clicks = RecVAENetwork(items, options, 1), HeldClicks(data, items)
    else:
        network, clicks = RecVAENetwork(n_items, options, 1), Clicks(data)

    loop = _Loop(network, clicks, TrainOptions(epochs=1, batch_size=sizes["batch"]), 3, Hooks())
    for phase in loop.phases:
        for parameter in network.parameters():
            parameter.requires_grad_(any(parameter is one for one in phase.parameters))
        network.begin_phase(phase.name, 0, clicks, sizes["batch"])
        for _, batch in zip(range(sizes["steps"]), loop._batches(1, None), strict=False):
            loop._update(phase, batch)
    parts = network.item_axes()
    of_items = sum(p.numel() for name, p in network.named_parameters() if name in parts)
    of_all = sum(p.numel() for name, p in network.named_parameters() if name not in parts)
    found = {
        "peak": _peak(),
        "before": before,
        "of_items": 16 * of_items,  # weights, gradients and two moments in float32
        "of_all": 16 * of_all,
        "table": 4 * n_users * 2 * sizes["latent"],
        "clicks": sum(
            value.numel() * value.element_size() for value in vars(clicks).values() if isinstance(value, torch.Tensor)
        ),
        "whole_clicks": data.data.nbytes + data.indices.nbytes + data.indptr.nbytes,
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))


def _peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
