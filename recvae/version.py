"""The version of recvae, said once (a test compares it with setup.cfg), and the versions that it computes with."""

__version__ = "0.1.0"


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
