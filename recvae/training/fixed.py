"""Tensors that no epoch changes, written once a run beside the weights instead of with every best epoch.

    fixed-<16 digits>.safetensors    such as the linear path of RecVAE + EDLAE, a matrix of all pairs of items

The header of model.safetensors names the whole digest under ``fixed``. The file is there before any weights that name
it, and a file of other contents has another name: whenever a run is killed, its weights and its fixed tensors belong
together. A weights file without that entry holds all tensors: that of a saved model, and every one of older versions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from recvae.training import run_folder
from recvae.training.tensor_files import FIXED, Facts


class Fixed:
    """The fixed tensors of a run under way: the model's tensors called ``names``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.digest: str | None = None  # the digest of the file of fixed tensors, once it is written

    def restore(self, network: nn.Module, tensors: Mapping[str, Tensor], facts: Facts) -> bool:
        """Give the network the fixed tensors of a resumed run's weights, bit for bit; return whether there are any."""
        self.digest = facts.get(FIXED)
        network.load_state_dict({name: tensors[name] for name in self.names}, strict=False)
        return bool(self.names)

    def apart(self, folder: Path, tensors: Mapping[str, Tensor], facts: Facts) -> tuple[Mapping[str, Tensor], Facts]:
        """Return the tensors that change, and facts that name the fixed ones' file, which is written the first time."""
        if not self.names:
            return tensors, facts
        if self.digest is None:
            self.digest = run_folder.write_fixed(folder, {name: tensors[name] for name in self.names})
        rest = {name: tensor for name, tensor in tensors.items() if name not in self.names}
        return rest, {**facts, FIXED: self.digest}
