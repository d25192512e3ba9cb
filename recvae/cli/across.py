"""Verbs that several processes run together, started by torchrun: one voice for all of them.

The first process prints; the others are silent. Of an error, the process that has it first prints the sentence.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from recvae.errors import InputError

if TYPE_CHECKING:
    from recvae.training.distributed import Processes

_together: "list[Processes]" = []
_streams: list[tuple[TextIO, TextIO]] = []  # of a process that is silent
VERBS = ("train", "evaluate")


def refuse(verb: str | None) -> None:
    """Raise :class:`InputError`, in one process of torchrun, for a verb that one process runs; end the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ and verb is not None and verb not in VERBS:
        if os.environ.get("RANK") != "0":
            raise SystemExit(InputError.exit_code)
        raise InputError(f"'recvae {verb}' runs in one process: start it without torchrun.")


def join(device: str, data_parallel: int = 1) -> "Processes | None":
    """Join the other processes of a launcher until :func:`leave`; None where this process was started alone.

    ``data_parallel``: how many of them have the same items, each for some users of every batch. Raises
    :class:`InputError` where that does not divide the number of processes.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if data_parallel > 1:
            raise InputError(
                f"--data-parallel {data_parallel} is for processes that torchrun starts: "
                f"torchrun --nproc-per-node {data_parallel} -m recvae train"
            )
        return None
    from recvae.training.distributed import Processes

    across = Processes.join(device)
    _together.append(across)
    if across.rank:
        _streams.append((sys.stdout, sys.stderr))
        sys.stdout = sys.stderr = _nowhere()
    across.deal(data_parallel)
    return across


def of_all(error: BaseException) -> BaseException:
    """Return the error to explain: of a lost connection, that another process ended. Only one process prints it."""
    if not _together:
        return error
    across = _together[-1]
    error = across.lost(error) or error
    if across.speaks(error):
        _give_back()
    else:
        sys.stderr = _nowhere()
    return error


def leave() -> None:
    """Leave the other processes."""
    while _together:
        _together.pop().leave()


def _nowhere() -> TextIO:
    """Return a stream, open until the end, that keeps nothing."""
    return Path(os.devnull).open("w", encoding="utf-8")


def _give_back() -> None:
    while _streams:
        sys.stdout, sys.stderr = _streams.pop()
