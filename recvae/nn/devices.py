"""Devices by name."""

import torch

from recvae.arguments import shown
from recvae.errors import InputError


def torch_device(name: str) -> torch.device:
    """Return the device called ``name``; 'auto' takes a CUDA device where there is one.

    Raises :class:`InputError` where there is no such device.
    """
    if not isinstance(name, str | torch.device):
        raise InputError(f"A device is a name such as 'cpu' or 'cuda', or 'auto' to choose, and not {shown(name)}.")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, UnicodeError) as error:
        raise InputError(
            f"The device {shown(str(name))} cannot be used here. Use device='cpu', or 'auto' to choose."
        ) from error
    return device
