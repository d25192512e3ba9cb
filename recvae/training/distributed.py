"""Training by several processes, each with a part of the items: the one module that knows of torch.distributed.

torchrun starts the processes, and a DeviceMesh joins them: gloo on CPUs, NCCL on GPUs. The collectives are those of
DTensor, whose gradients are right: from a partial sum to a replicated one is an all-reduce with the identity as its
gradient, and a replicated tensor whose gradients are partial has the reverse.

A step of B users sends B (H + K + 3) numbers where both layers are trained, H and K the widths beside the items:
H for the first layer, K for the gradient to the code, and of the multinomial likelihood the maximum, the sum of
exponentials and the positive term. With data_parallel = M each part of the items is in M processes, each of which takes
B / M of the users; these M also sum all gradients of their part.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor import Shard as Along

from recvae.errors import FormatError, InputError, RecvaeError, WorkError
from recvae.nn.portions import Replicas
from recvae.nn.shards import BLOCK, Shard

Result = TypeVar("Result")

_SPREAD = 20_480  # seed of the order in which items are dealt to processes
_PATIENCE = timedelta(minutes=30)  # for a process that is silent and still there, such as one that writes a large file
_SPOKEN = "recvae/spoken"  # a key of the store: the process that counts it first prints its error


class MeshShard(Shard):
    """The items that process ``mesh.get_local_rank()`` of a one-dimensional mesh holds, which other meshes may too.

    Catalogues are in order of first appearance, the much clicked items first. So the items are shuffled, always in the
    same way, and each process has a contiguous part of that order; a run can go on with another number of processes,
    whose parts are others of the same order.
    """

    def __init__(self, mesh: DeviceMesh, n_items: int) -> None:
        self.mesh = mesh
        self.order = torch.randperm(n_items, generator=torch.Generator().manual_seed(_SPREAD))
        self.parts = self.order.chunk(mesh.size())
        if len(self.parts) < mesh.size():
            raise InputError(
                f"{n_items} items cannot be dealt to {mesh.size()} processes. Start fewer: --nproc-per-node 1."
            )
        super().__init__(self.parts[mesh.get_local_rank()], n_items, max(map(len, self.parts)))

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

    def whole_shape(self, part: Tensor, dim: int | None) -> tuple[int, ...]:
        """Return the shape of all items' tensor, whose part is along ``dim``; None for a tensor that all have."""
        shape = list(part.shape)
        if dim is not None:
            shape[dim] = self.n_items
        return tuple(shape)

    def spread(self, part: Tensor, dim: int | None) -> Tensor:
        """Return all items' tensor, in this class's order, as a DTensor of which ``part`` is this process's."""
        if dim is None:
            return part
        shape = torch.Size(self.whole_shape(part, dim))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(part, self.mesh, [Along(dim)], run_check=False, shape=shape, stride=stride)

    @torch.no_grad()
    def rows_in_order(self, part: Tensor, dim: int | None) -> Iterator[Tensor]:
        """Yield the first process the rows of all items' tensor, in the catalogue's order, some at a time.

        All processes go through it together; the others yield nothing. Rows are sent by way of the CPU, among the
        processes of the mesh of which the first process is one.
        """
        if 0 not in self.mesh.mesh:
            return
        here, rank = part.detach().cpu(), self.mesh.get_local_rank()
        if dim is None:
            if rank == 0:
                yield here
            return
        n_rows = self.n_items if dim == 0 else len(here)
        width = (here[:1].numel() or 1) if dim == 0 else self.n_items
        at_once = max(1, BLOCK // width)
        sorted_parts = [columns.sort() for columns in self.parts]
        for start in range(0, n_rows, at_once):
            stop = min(start + at_once, n_rows)
            shape = (stop - start, *here.shape[1:]) if dim == 0 else (stop - start, self.n_items)
            block = here.new_empty(shape) if rank == 0 else None
            for owner, (columns, places) in enumerate(sorted_parts):
                if dim == 0:
                    low, high = torch.searchsorted(columns, torch.tensor([start, stop])).tolist()
                    mine, target = places[low:high], columns[low:high] - start
                    shape_of_piece: tuple[int, ...] = (high - low, *here.shape[1:])
                else:
                    mine, target = None, self.parts[owner]
                    shape_of_piece = (stop - start, len(target))
                if not target.numel() or (rank != 0 and rank != owner):
                    continue
                if rank == owner:
                    piece = (here[mine] if mine is not None else here[start:stop]).contiguous()
                if owner != 0 and rank == owner:
                    dist.send(piece, 0)
                elif rank == 0:
                    if owner != 0:
                        piece = here.new_empty(shape_of_piece)
                        dist.recv(piece, owner)
                    assert block is not None
                    if dim == 0:
                        block[target] = piece
                    else:
                        block[:, target] = piece
            if block is not None:
                yield block


class MeshReplicas(Replicas):
    """The processes of a one-dimensional mesh, all of which have the same items."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__(mesh.get_local_rank(), mesh.size())
        self.group = mesh.get_group()

    @torch.no_grad()
    def add_up(self, parts: Iterable[Tensor]) -> None:
        """Sum each tensor over the processes: an all-reduce in place, which gives all of them the same bits."""
        for part in parts:
            dist.all_reduce(part, group=self.group)
            increment_version(part)  # torch counts no change by a collective, and GradientMemory goes by the count


class Processes:
    """The processes that torchrun started: the meeting points of one run. The first one, rank 0, prints and writes.

    Each part of the items is in ``data_parallel`` of them, 1 unless :meth:`deal` was called.
    """

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Join the other processes that a launcher started, until :meth:`leave`.

        ``device``: 'auto' takes the GPU of this process's place on its machine where there are GPUs. Raises
        :class:`InputError` for a device that several processes do not train on, and where they do not find one another.
        """
        place = torch.device(device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu"))
        if place.type == "cuda":
            place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(place)
        elif place.type != "cpu":
            raise InputError(f"Several processes train on 'cpu' or 'cuda', not on '{place.type}'.")
        try:
            store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
            # torchrun may start again with the same store, which then has the addresses of processes that are gone.
            store = PrefixStore(f"recvae/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
            backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE, store=store, rank=rank, world_size=size)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"The processes cannot find one another ({str(error).splitlines()[0]}). Start them with torchrun."
            ) from error
        return cls(place)

    def leave(self) -> None:
        """Leave the other processes."""
        with suppress(RuntimeError):  # of a connection that is closed already
            dist.destroy_process_group()

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.data_parallel = 1
        self._asked = False  # whether a signal asked this process to end

    def deal(self, data_parallel: int) -> None:
        """Let so many processes have each part of the items; raise :class:`InputError` where that cannot be."""
        if self.size % data_parallel:
            raise InputError(
                f"--data-parallel {data_parallel} does not divide {self.size} processes. Start a multiple of it: "
                f"--nproc-per-node {data_parallel}."
            )
        self.data_parallel = data_parallel

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The processes in a table: those of a row have all items together, those of a column the same items."""
        shape = (self.data_parallel, self.size // self.data_parallel)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("users", "items"))

    def shard(self, n_items: int) -> MeshShard:
        """Return this process's items; raise :class:`InputError` where there are fewer items than processes."""
        return MeshShard(self.mesh["items"], n_items)

    def replicas(self) -> MeshReplicas | None:
        """Return the processes that have this one's items and take other users; None where it takes all users."""
        return None if self.data_parallel == 1 else MeshReplicas(self.mesh["users"])

    def lead(self, do: Callable[[], Result]) -> Result:
        """Return in all processes the result of ``do``, which the first one calls; its error is raised in all."""
        dist.all_reduce(torch.zeros(1))  # when all have come here
        sent: list[Any] = [None, None]
        if self.rank == 0:
            try:
                sent = [do(), None]
            except RecvaeError as error:
                sent = [None, error]
        dist.broadcast_object_list(sent, 0, device=torch.device("cpu"))
        result, failure = sent
        if failure is not None:
            raise failure
        return result  # type: ignore[no-any-return]  # the list has been through the network

    def gathered(self, value: Result) -> list[Result]:
        """Return every process's ``value``, in the order of their ranks."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def same(self, facts: Mapping[str, object]) -> None:
        """Raise :class:`InputError` where the processes differ in facts on which the bits of the middle depend."""
        for rank, others in enumerate(self.gathered(dict(facts))):
            for name, value in facts.items():
                if others.get(name) != value:
                    raise InputError(
                        f"Process {rank} has {name} {others.get(name)}, and process {self.rank} has {value}. All "
                        "processes of a run need the same versions, threads, kind of processor and --data-parallel."
                    )

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within this context a first SIGINT or SIGTERM is kept for :meth:`meet`; a second one interrupts at once.

        After an error of the network SIGTERM is ignored: a launcher that finds a process gone sends it to the others,
        which end by that error already, and must not interrupt them before they say so.
        """
        self._asked = False
        before: dict[int, Any] = {}

        def ask(number: int, frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self._asked = True

        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except BaseException as error:
            if _of_network(error) and signal.SIGTERM in before:
                before[signal.SIGTERM] = signal.SIG_IGN
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def meet(self) -> None:
        """Raise KeyboardInterrupt in all processes where a signal asked any of them to end."""
        asked = torch.tensor([float(self._asked)])  # on the CPU, so that no GPU is waited for
        dist.all_reduce(asked)
        if asked.item():
            raise KeyboardInterrupt

    def save(self, folder: Path, tensors: Mapping[str, Tensor], shard: MeshShard, dims: Mapping[str, int]) -> None:
        """Write tensors, of which each process has those of its items along ``dims``, into files of a new folder.

        Raises :class:`WorkError` in all processes where one cannot write.
        """
        spread = {name: shard.spread(tensor.detach(), dims.get(name)) for name, tensor in tensors.items()}
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            state_dict_saver.save(spread, storage_writer=writer)
        except CheckpointException as error:
            raise WorkError(f"Cannot write {folder}: {_reason(error)}. Free some space, or write elsewhere.") from error

    def load(self, folder: Path, tensors: Mapping[str, Tensor], shard: MeshShard, dims: Mapping[str, int]) -> None:
        """Fill ``tensors`` from a folder that :meth:`save` wrote, with any number of processes.

        Raises :class:`FormatError` in all processes where one cannot read.
        """
        spread = {name: shard.spread(tensor, dims.get(name)) for name, tensor in tensors.items()}
        try:
            state_dict_loader.load(spread, storage_reader=HuggingFaceStorageReader(str(folder)))
        except CheckpointException as error:
            raise FormatError(f"{folder} is damaged ({_reason(error)}). Train again.") from error

    def lost(self, error: BaseException) -> WorkError | None:
        """Return the error to raise in place of one of the network; None for another error."""
        if not _of_network(error):
            return None
        return WorkError(
            "Another process of this run ended: it failed, was killed, or its machine is gone. The state that was kept "
            "last is as it was: start again with --resume."
        )

    def speaks(self, error: BaseException) -> bool:
        """Return whether this process is to print an error: the first that has one, or rank 0 if all were asked to end.

        The store is the launcher's, and outlives a process.
        """
        if isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 1) == 130:
            return self.rank == 0
        try:
            count: int = dist.distributed_c10d._get_default_store().add(_SPOKEN, 1)
        except (RuntimeError, ValueError):  # the launcher is gone
            return self.rank == 0
        return count == 1


def _of_network(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(part in str(error) for part in ("gloo", "Connection", "NCCL"))
    )


def _reason(error: CheckpointException) -> str:
    """Return the first process's reason, in few words."""
    first = next(iter(error.failures.values()))[0]
    return str(getattr(first, "strerror", None) or first).splitlines()[0]
