"""The run folder of a model that several processes train: the first one writes it, and each writes its part of a state.

    resume/held.json           the values of the state that training goes on from, and the digests of its files
    resume/held-<number>/      its tensors, as torch.distributed.checkpoint writes them: safetensors, a file or more
                               from each process

The weights are the ordinary model.safetensors, made of all parts row by row, so that a finished run loads in one
process. The folder is on a file system that all processes see. A state is written into a new folder before held.json
names it, so that one is whole at every moment.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.errors import FormatError, InputError, OtherMachineWarning
from recvae.files import Document, file_hash
from recvae.files.swap import remove
from recvae.training import run_folder, seals
from recvae.training.distributed import MeshShard, Processes
from recvae.training.keepers import InFolder, Trained, note_best
from recvae.training.loop import EpochReport, TrainState
from recvae.training.tensor_files import Blocks, Facts
from recvae.training.tensors import Expected

_FOLDERS = "held-*"
_TYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64, torch.int64, torch.uint8)
}


class HeldFolder:
    """Keeps best weights and states of a run of several processes; every method is called by all of them together."""

    has_fixed = False

    def __init__(
        self,
        model: Trained,
        folder: Path,
        matrix: csr_array,
        across: Processes,
        shard: MeshShard,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.model, self.across, self.shard = model, across, shard
        self.lead = _Lead(model, folder, matrix, resume=resume, overwrite=overwrite) if across.rank == 0 else None

    def begin(self) -> TrainState | None:
        """Start the folder, or return the state to continue from, with the tensors of this process's items."""
        lead = self.lead

        def start() -> tuple[Path, Facts | None]:
            assert lead is not None
            lead.begin()
            return lead.home, lead.state_facts

        home, held = self.across.lead(start)
        if held is None:
            return None
        was, now = (held["processes"], held.get("data_parallel", 1)), (self.across.size, self.across.data_parallel)
        if was != now:
            warnings.warn(
                f"{home / run_folder.HELD} was made by {_arrangement(*was)}; here it goes on with "
                f"{_arrangement(*now)}. What follows is as good, but not bit for bit what it would have been.",
                OtherMachineWarning,
                stacklevel=2,
            )
        state_folder = home / "resume" / held["folder"]
        self._check(state_folder, held["files"])
        dims = _dims(held["tensors"], self.model.network.item_axes())
        tensors = {
            name: torch.zeros(self._local_shape(shape, dims.get(name)), dtype=_TYPES[dtype], device=self.across.device)
            for name, (shape, dtype) in held["tensors"].items()
        }
        self.across.load(state_folder, tensors, self.shard, dims)
        return TrainState(tensors, held["values"], str(home / run_folder.HELD))

    def _local_shape(self, shape: list[int], dim: int | None) -> list[int]:
        return [len(self.shard) if place == dim else size for place, size in enumerate(shape)]

    def _check(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Raise :class:`FormatError` in all processes unless the files are as they were written; each reads some."""
        wrong = None
        for name in sorted(digests)[self.across.rank :: self.across.size]:
            path = folder / name
            if not path.is_file() or file_hash(path) != digests[name]:
                wrong = str(path)
        for place in filter(None, self.across.gathered(wrong)):
            raise FormatError(f"{place} is missing or was altered. {seals.REMEDY}")

    def keep_best(self, report: EpochReport) -> None:
        """Write the weights with their facts, and run.json."""
        names = sorted(self.model.tensors())
        if self.lead is not None:
            self.lead.blocks = self._blocks
            self.lead.keep_best(report)
            return
        note_best(self.model, report)
        for name in names:
            for _ in self._blocks(name):
                pass

    def _blocks(self, name: str) -> Iterator[Tensor]:
        tensor = self.model.tensors()[name]
        return self.shard.rows_in_order(tensor, self.model.network.item_axes().get(name))

    def keep_state(self, state: TrainState, report: EpochReport | None) -> None:
        """Write the state from which training goes on, and after an epoch the metrics; ``report`` is None within one.

        A state within an epoch is for a process that is killed: it has no row in the metrics.
        """
        lead, across = self.lead, self.across

        def place() -> Path:
            assert lead is not None
            return lead.begin_state()

        folder = across.lead(place)
        dims = _dims(state.tensors, self.model.network.item_axes())
        across.save(folder, state.tensors, self.shard, dims)
        files = sorted(path.name for path in folder.iterdir())
        digests: dict[str, str] = {}
        for part in across.gathered({name: file_hash(folder / name) for name in files[across.rank :: across.size]}):
            digests |= part
        forms = {
            key: [list(self.shard.whole_shape(value, dims.get(key))), str(value.dtype).removeprefix("torch.")]
            for key, value in state.tensors.items()
        }
        held = {"folder": folder.name, "processes": across.size, "files": digests, "tensors": forms}
        held["data_parallel"] = across.data_parallel
        across.lead(lambda: None if lead is None else lead.end_state(state, report, held))

    def end(self) -> None:
        """Leave the folder as a run that can be loaded, or resumed; this process waits for no other."""
        if self.lead is not None:
            self.lead.end()


class _Lead(InFolder):
    """The first process's folder: it writes the files that one process alone would write, and held.json."""

    def __init__(self, model: Trained, folder: Path, matrix: csr_array, *, resume: bool, overwrite: bool) -> None:
        super().__init__(model, folder, matrix, resume=resume, overwrite=overwrite)
        self.state_facts: Facts | None = None  # the facts of the state that is in the folder
        self.blocks: Blocks | None = None

    def begin_state(self) -> Path:
        """Return the folder to write a state into; one that a killed process left unfinished is removed."""
        before = None if self.state_facts is None else self.state_facts["folder"]
        self._remove_folders(before)
        number = 1 if before is None else int(before.removeprefix("held-")) + 1
        return self.home / "resume" / f"held-{number:06d}"

    def end_state(self, state: TrainState, report: EpochReport | None, held: Document) -> None:
        """Name the new state in held.json, and remove the one before."""
        self.state_facts = {**held}
        if report is not None:
            self.keep_state(state, report)
        else:
            self._write_state(state, self._facts(state))
        self._remove_folders(held["folder"])

    def _remove_folders(self, but: str | None) -> None:
        for path in (self.home / "resume").glob(_FOLDERS):
            if path.name != but:
                remove(path)

    def _read_state(self) -> tuple[TrainState, Facts] | None:
        if (self.home / run_folder.STATE).is_file():
            raise InputError(f"{self.folder} was trained by one process. Go on with it without torchrun.")
        self.state_facts = run_folder.read_held(self.home)
        if self.state_facts is None:
            return None
        return TrainState({}, self.state_facts["values"], str(self.home / run_folder.HELD)), self.state_facts

    def _write_state(self, state: TrainState, facts: Facts) -> None:
        assert self.state_facts is not None
        self.state_facts |= {"values": state.values, **facts}
        run_folder.write_held(self.home, self.state_facts)

    def _read_best(self) -> Facts:
        facts = run_folder.read_facts(self.home)
        if facts is None:
            raise FormatError(f"{self.home / run_folder.WEIGHTS} is missing. Train again.")
        return facts

    def _write_best(self) -> None:
        forms = {
            name: Expected(self._shape(name, tensor), tensor.dtype) for name, tensor in self.model.tensors().items()
        }
        assert self.blocks is not None
        run_folder.stream_best(self.home, self.model.run(), forms, self.blocks, self.model.facts())

    def _shape(self, name: str, tensor: Tensor) -> tuple[int, ...]:
        dim = self.model.network.item_axes().get(name)
        return tuple(self.model.network.n_items if place == dim else size for place, size in enumerate(tensor.shape))

    def _nothing_kept(self) -> bool:
        return self.state_facts is None

    def _put_weights_back(self) -> None:
        facts = self._read_best()
        best = self.rows[-1]["best_epoch"] if self.rows else 0
        kept = run_folder.read_facts(self.folder, run_folder.BEST)
        if self.finished and facts["best_epoch"] != best and kept is not None and kept["best_epoch"] == best:
            facts = kept
            self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
            run_folder.write_best(self.folder, self.model.run())
            run_folder.remove_aside(self.folder)
        self.model.best_epoch, self.model.metrics = facts["best_epoch"], facts["metrics"]
        seals.narrow(self.folder)


def _arrangement(processes: int, data_parallel: int) -> str:
    """Return a number of processes, and how many had the same items if that is not 1, for a sentence."""
    return f"{processes} processes" + (f" and --data-parallel {data_parallel}" if data_parallel > 1 else "")


def _dims(names: Iterable[str], parts: Mapping[str, int]) -> dict[str, int]:
    """Return the dimension of the items in a state's tensors, by name, of those that have one."""
    dims: dict[str, int] = {}
    for name in names:
        kind, _, rest = name.partition(".")
        if kind == "adam":  # adam.PHASE.PARAMETER.SLOT
            parameter, _, slot = rest.partition(".")[2].rpartition(".")
            rest = "" if slot == "step" else parameter
        if kind == "prior" and rest.startswith("old."):  # a parameter of the encoder, by its name there
            rest = next((part for part in parts if f".{part}".endswith(rest.removeprefix("old"))), "")
        if kind in ("prior", "adam", "network", "average") and rest in parts:
            dims[name] = parts[rest]
    return dims
