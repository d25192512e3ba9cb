"""Training by several processes, each with a part of the items: the one module that knows of torch.distributed.

torchrun starts the processes, and a DeviceMesh joins them: gloo on CPUs, NCCL on GPUs. The collectives are those of
DTensor, whose gradients are right: from a partial sum to a replicated one is an all-reduce with the identity as its
gradient, and a replicated tensor whose gradients are partial has the reverse.

A step of B users sends B (H + K + 3) numbers where both layers are trained, H and K the widths beside the items:
H for the first layer, K for the gradient to the code, and of the multinomial likelihood the maximum, the sum of
exponentials and the positive term.
"""

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor import Shard as Along

from recvae.nn.shards import Shard

_SPREAD = 20_480  # seed of the order in which items are dealt to processes


class MeshShard(Shard):
    """The items that process ``mesh.get_local_rank()`` of a one-dimensional mesh holds.

    Catalogues are in order of first appearance, the much clicked items first. So the items are shuffled, always in the
    same way, and each process has a contiguous part of that order; a run can go on with another number of processes,
    whose parts are others of the same order.
    """

    def __init__(self, mesh: DeviceMesh, n_items: int) -> None:
        self.mesh = mesh
        self.order = torch.randperm(n_items, generator=torch.Generator().manual_seed(_SPREAD))
        parts = self.order.chunk(mesh.size())
        rank = mesh.get_local_rank()
        super().__init__(parts[rank] if rank < len(parts) else self.order[:0], n_items)

    def sum(self, part: Tensor) -> Tensor:
        """Return the sum over the processes: an all-reduce, whose gradient is the identity."""
        return self._replicated(part, Partial())

    def shared(self, value: Tensor) -> Tensor:
        """Return a replicated value: the identity, whose gradient is an all-reduce."""
        local: Tensor = DTensor.from_local(value, self.mesh, [Replicate()], run_check=False).to_local(
            grad_placements=[Partial()]
        )
        return local

    @torch.no_grad()
    def largest(self, part: Tensor) -> Tensor:
        """Return the maximum over the processes: an all-reduce."""
        return self._replicated(part, Partial("max"))

    @torch.no_grad()
    def beside(self, part: Tensor) -> Tensor:
        """Return all parts side by side: an all-gather."""
        return self._replicated(part, Along(1))

    def _replicated(self, part: Tensor, placement: Partial | Along) -> Tensor:
        spread = DTensor.from_local(part, self.mesh, [placement], run_check=False)
        local: Tensor = spread.redistribute(placements=[Replicate()]).to_local()
        return local
