"""Tensors that no epoch changes, written once a run beside the weights instead of with every best epoch.

    fixed-<16 digits>.safetensors    such as the linear path of RecVAE + EDLAE, a matrix of all pairs of items

The header of model.safetensors names the whole digest under ``fixed``. The file is there before any weights that name
it, and a file of other contents has another name: a run that is killed at any moment has weights with what belongs to
them. Weights without that entry hold everything themselves, as all did once and as those of a saved model do.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from recvae.training import run_folder


class Fixed:
    """The fixed tensors of a run under way, ``names`` of the model's."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.digest: str | None = None  # of the file that is there

    def restore(self, network: nn.Module, tensors: Mapping[str, Tensor], facts: run_folder.Facts) -> bool:
        """Give the network the fixed tensors of the weights that a run goes on from, bit for bit.

        Return whether there are any.
        """
        self.digest = facts.get(run_folder.FIXED)
        network.load_state_dict({name: tensors[name] for name in self.names}, strict=False)
        return bool(self.names)

    def apart(
        self, folder: Path, tensors: Mapping[str, Tensor], facts: run_folder.Facts
    ) -> tuple[Mapping[str, Tensor], run_folder.Facts]:
        """Return tensors and facts as the weights' file is to have them; the fixed ones have a file of their own."""
        if not self.names:
            return tensors, facts
        if self.digest is None:
            self.digest = run_folder.write_fixed(folder, {name: tensors[name] for name in self.names})
        rest = {name: tensor for name, tensor in tensors.items() if name not in self.names}
        return rest, {**facts, run_folder.FIXED: self.digest}
