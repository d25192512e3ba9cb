"""Tensors that no epoch changes, written once a run beside the weights instead of with every best epoch.

    fixed-<16 digits>.safetensors    such as the linear path of RecVAE + EDLAE, a matrix of all pairs of items

The header of model.safetensors names the whole digest under ``fixed``. The file is there before any weights that name
it, and a file of other contents has another name: a run that is killed at any moment has weights with what belongs to
them.
Weights without that entry hold everything themselves, as all did once and as those of a saved model do.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recvae.errors import FormatError, WorkError
from recvae.files import whole_file

PATTERN = "fixed-*.safetensors"
FACT = "fixed"  # the entry of the weights' facts


def fixed_file(digest: str) -> str:
    """Return the name of the file with this digest."""
    return PATTERN.replace("*", digest[:16])


def read_fixed(folder: Path, facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the fixed tensors that belong to weights with these facts, none where they hold everything.

    Raises :class:`FormatError` where the file is missing, damaged or another one.
    """
    digest = facts.get(FACT)
    if digest is None:
        return {}
    path = folder / fixed_file(str(digest))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise FormatError(f"{path} is missing, truncated or not a recvae file. Train again.") from error
    if _digest(tensors) != digest:
        raise FormatError(f"{path} was altered: its contents do not match its digest. Train again.")
    return tensors


class Fixed:
    """The fixed tensors of a run under way, ``names`` of the model's."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.digest: str | None = None  # of the file that is there

    def restored(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the fixed tensors of the weights that a run goes on from: it keeps them, bit for bit."""
        self.digest = facts.get(FACT)
        return read_fixed(self.folder, facts) or {name: tensors[name] for name in self.names if name in tensors}

    def apart(
        self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and facts as the weights' file is to have them; the fixed ones have a file of their own."""
        if not self.names:
            return dict(tensors), dict(facts)
        if self.digest is None:
            kept = {name: tensors[name].detach().cpu().contiguous() for name in self.names}
            self.digest = _digest(kept)
            path = self.folder / fixed_file(self.digest)
            with whole_file(path) as temporary:
                try:
                    save_file(kept, temporary)
                except SafetensorError as error:  # it wraps the operating system's error
                    raise WorkError(f"Cannot write {path}: {error}. Free some space, or write elsewhere.") from error
        rest = {name: tensor for name, tensor in tensors.items() if name not in self.names}
        return rest, {**facts, FACT: self.digest}

    def tidy(self) -> None:
        """Delete what a run that was killed before it had a state left of another digest."""
        for path in self.folder.glob(PATTERN) if self.digest else ():
            if path.name != fixed_file(self.digest or ""):
                path.unlink()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(data)
    return digest.hexdigest()
