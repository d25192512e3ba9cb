"""``--threads``: the number of threads that a verb computes with, for as long as it runs."""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from recvae.training import threads

_until_done = ExitStack()


def use_threads(asked: str, *, run: Path | None = None) -> int:
    """Set the number of threads until :func:`back_to_before`, and return it; ``asked`` is a number or ``auto``.

    ``auto`` is the number with which ``run``, a run to be resumed, was trained, if it is known; else OMP_NUM_THREADS if
    that is set; else the number of cores that this process may use and other programs leave free. Raises
    :class:`InputError` for another word.
    """
    number = threads.parse(asked)
    if number is None and run is not None:
        number = trained_with(run)
    loaded = "torch" in sys.modules
    others = None
    if not (number == 1 or (loaded and (number is not None or _torch_threads() == 1))):  # else the load does not matter
        others = _others()
        if not loaded and others is not None and others > threads.NEGLIGIBLE:
            threads.spin_briefly(os.environ)
    if number is None:
        most = _torch_threads()  # the number of real cores, or OMP_NUM_THREADS
        number = most if "OMP_NUM_THREADS" in os.environ else min(most, threads.choose(threads.cores(), others))
    back_to_before()
    _until_done.enter_context(threads.limited(number))
    return number


def use_threads_of(folder: Path, asked: str) -> int:
    """Set the number of threads as :func:`use_threads` does, for the model in ``folder``, and return it.

    torch is imported for a run folder alone; ``auto`` for an export is the number of free cores, or OMP_NUM_THREADS.
    """
    from recvae.serving.model import need_torch
    from recvae.training.export_folder import is_export

    if not is_export(folder):
        need_torch(folder)
        return use_threads(asked)
    number = threads.parse(asked)
    if number is None:
        set_here = os.environ.get("OMP_NUM_THREADS", "")
        number = max(1, int(set_here)) if set_here.isdigit() else threads.choose(threads.cores(), _others())
    use_without_torch(number)
    return number


def use_without_torch(number: int) -> None:
    """Set the number of threads of all libraries but torch until :func:`back_to_before`."""
    back_to_before()
    _until_done.enter_context(threads.limited(number, torch=False))


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _others() -> float | None:
    """Return how many cores other programs keep busy; None where the system does not say."""
    before, began = threads.Moment.now(), time.monotonic()
    if before.busy is None:
        return None
    import numpy  # noqa: F401 - every verb needs it: no time is lost while the load is measured

    time.sleep(max(0.0, threads.SAMPLE_SECONDS - (time.monotonic() - began)))
    return before.others(threads.Moment.now())


def back_to_before() -> None:
    """Restore the process's former number of threads."""
    _until_done.close()


def trained_with(run: Path) -> int | None:
    """Return the number of threads that a run to be resumed was trained with; None where unknown."""
    from safetensors import SafetensorError, safe_open

    from recvae.training.run_folder import STATE

    try:
        with safe_open(run / STATE, framework="np") as file:  # reads the header and no tensors
            used = json.loads(file.metadata()["recvae"])["facts"]["values"]["arithmetic"]["threads"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None  # no state, an older or a damaged one; reading the run raises the error
    return used if type(used) is int and 1 <= used <= threads.MOST else None
