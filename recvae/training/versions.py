"""The versions that a run's bits depend on."""

from recvae import __version__


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
