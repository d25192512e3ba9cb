"""One pass over the users of all parts, before any work: how many there are, and whether each one's rows are together.

A user whose rows are in two places would get two lists, each from a part of the history. Of every user 8 bytes are
kept, a hash; where two hashes agree, the parts are read again for the ids, so that no chance decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.streams import Progress
from recvae.errors import InputError
from recvae.serving.lists.arrays import as_text
from recvae.serving.lists.asked import Columns
from recvae.serving.lists.parts import ROWS, Opened, Part, opened, run_starts

Hashes = NDArray[np.int64]

IN_MEMORY = 1 << 23
"""The most rows of a part whose users' rows do not stand together: they are put in order in memory."""

_AT_ONCE = 1000  # users that are looked for in one reading
_SORT = "Users whose rows are in several places are joined by --sort, or by any program that sorts the rows by user."


@dataclass(frozen=True)
class Scanned:
    """A part with its numbers of users and of rows, and whether some user's rows do not stand together in it."""

    part: Part
    users: int
    rows: int
    mixed: bool


def scan(parts: Sequence[Part], columns: Columns, progress: Progress | None = None) -> list[Scanned]:
    """Return the parts with their numbers of users.

    Raises :class:`InputError` where a user is in two parts, or comes again in a part that is too large to be put in
    order in memory, and the errors of :mod:`recvae.serving.lists.parts` for parts that cannot be used.
    """
    scanned, hashes = [], []
    for number, part in enumerate(parts):
        with opened(part, columns) as file:
            found, of_part = _scan_part(file)
        scanned.append(found)
        hashes.append(of_part)
        if progress is not None:
            progress("check users", number + 1, len(parts))
    if not any(found.rows for found in scanned):
        raise InputError(f"{parts[0].path if len(parts) == 1 else parts[0].path.parent} has no rows.")
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    spread = values[counts > 1]
    again = _again(parts, columns, spread, within=False)
    if again is not None:
        user, one, other = again
        many = f", and {len(spread) - 1:,} more users are in several parts" if len(spread) > 1 else ""
        raise InputError(f"The user '{user}' is in {one.path.name} and in {other.path.name}{many}. {_SORT}")
    return scanned


def _scan_part(file: Opened) -> tuple[Scanned, Hashes]:
    """Return a part's facts, and the distinct hashes of its users, ascending."""
    distinct, pending, waiting = np.empty(0, np.int64), list[Hashes](), 0
    rows = runs = 0
    twice = np.empty(0, np.int64)

    def merge() -> None:
        nonlocal distinct, twice
        distinct, counts = np.unique(np.concatenate((distinct, *pending)), return_counts=True)
        if not len(twice):
            twice = distinct[counts > 1]
            _refuse_mixed(file, rows, twice)

    for ids, piece_rows in _runs(file):
        pending.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
        rows, runs, waiting = rows + piece_rows, runs + len(ids), waiting + len(ids)
        if waiting > max(len(distinct), 1 << 20):  # seldom enough that all merges cost little more than the last
            merge()
            pending, waiting = [], 0
    merge()
    if len(twice) and rows > IN_MEMORY:
        _refuse_mixed(file, rows, twice)
    return Scanned(file.part, len(distinct), rows, bool(len(twice)) and rows <= IN_MEMORY), distinct


def _runs(file: Opened) -> Iterator[tuple[list[str], int]]:
    """Yield the users of consecutive rows, each once for a run of rows, and the number of the rows, by piece."""
    before: str | None = None
    for piece in file.pieces([file.columns.user], ROWS):
        if piece.num_rows:
            users = piece.column(0)
            if not file.of_users:
                users = users.take(run_starts(users))
            ids = as_text(users, file.columns.user).to_pylist()
            goes_on = ids[0] == before and not file.of_users
            before = ids[-1]
            yield ids[1:] if goes_on else ids, piece.num_rows


def _refuse_mixed(file: Opened, rows: int, twice: Hashes) -> None:
    """Raise :class:`InputError` where a user of a part comes again, and the part cannot be put in order in memory."""
    if not len(twice) or not (rows > IN_MEMORY or file.of_users):
        return
    again = _again([file.part], file.columns, twice, within=True)
    if again is None:
        return
    user, path = again[0], file.part.path
    if file.of_users:
        raise InputError(f"{path} has two rows of the user '{user}'. A user has one row: join the two.")
    raise InputError(
        f"The rows of the user '{user}' are in several places of {path}, and parts of more than {IN_MEMORY:,} rows are "
        f"not put in order in memory. {_SORT}"
    )


def _again(parts: Sequence[Part], columns: Columns, suspects: Hashes, *, within: bool) -> tuple[str, Part, Part] | None:
    """Return a user who is in two parts, or ``within`` one comes again, and the two; None where there is no such user.

    ``suspects``: the hashes of which one is the user's.
    """
    for start in range(0, len(suspects), _AT_ONCE):
        wanted = set(suspects[start : start + _AT_ONCE].tolist())
        places: dict[str, Part] = {}
        for part in parts:
            with opened(part, columns) as file:
                for user in (user for ids, _ in _runs(file) for user in ids if hash(user) in wanted):
                    before = places.get(user)
                    if before is not None and (within or before is not part):
                        return user, before, part
                    places[user] = part
    return None
