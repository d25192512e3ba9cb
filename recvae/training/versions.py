"""The versions and properties of a machine that a run's bits depend on."""

from typing import TYPE_CHECKING

from recvae import __version__
from recvae.files import JsonObject

if TYPE_CHECKING:
    import torch


def versions() -> dict[str, str]:
    """Return the versions that a run's bits depend on."""
    import platform

    import numpy as np
    import torch

    return {
        "recvae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def arithmetic(device: "torch.device") -> JsonObject:
    """Return the properties of this machine on which, beside seed and versions, a run's bits depend."""
    import torch

    if device.type == "cpu":
        return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def listed(values: JsonObject) -> str:
    """Return the properties for a sentence."""
    return ", ".join(f"{name}={value}" for name, value in values.items())
