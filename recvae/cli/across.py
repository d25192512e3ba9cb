"""Verbs that several processes run together, started by torchrun: one voice for all of them.

The first process prints; the others are silent. Of an error, the process that has it first prints the sentence.
"""

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recvae.training.distributed import Processes

_together: "list[Processes]" = []


def join(device: str) -> "Processes | None":
    """Join the other processes of a launcher until :func:`leave`; None where this process was started alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    from recvae.training.distributed import Processes

    across = Processes.join(device)
    _together.append(across)
    if across.rank:
        sys.stdout = _nowhere()
    return across


def of_all(error: BaseException) -> BaseException:
    """Return the error to explain: of a lost connection, that another process ended. Only one process prints it."""
    if not _together:
        return error
    across = _together[-1]
    error = across.lost(error) or error
    if not across.speaks(error):
        sys.stderr = _nowhere()
    return error


def leave() -> None:
    """Leave the other processes."""
    while _together:
        _together.pop().leave()


def _nowhere() -> TextIOWrapper:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - it is open until the end
