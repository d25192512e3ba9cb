"""Conditions that a ranking is asked under, as people and programs write them, to sparse rows."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from recvae.arguments import items, shown
from recvae.errors import InputError, did_you_mean, listed
from recvae.nn.batches import canonical


def encoded(names: Sequence[Sequence[str]], known: Sequence[str]) -> Any:
    """Return lists of names out of ``known``, C of them, as CSR (n, C) of ones.

    Raises :class:`InputError` for a name there is not, with the nearest.
    """
    from scipy.sparse import csr_array

    names = [_texts(of_user) for of_user in items("The conditions", names)]
    place = {name: column for column, name in enumerate(known)}
    rows = [sorted({place.get(name, -1) for name in of_user}) for of_user in names]
    for row, of_user in zip(rows, names, strict=True):
        if -1 in row:
            unknown = next(name for name in of_user if name not in place)
            near = did_you_mean(unknown, place)
            raise InputError(f"The model has no condition {shown(unknown)}.{near} It has {listed(known, most=40)}.")
    indptr = np.cumsum([0, *(len(row) for row in rows)])
    indices = np.array([column for row in rows for column in row], dtype=np.int64)
    return csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), len(place)))


def of_each_user(conditions: Any, n: int) -> list[list[str]] | None:
    """Return one list of names for each of ``n`` users where ``conditions`` is that; None where it is one for all.

    Raises :class:`InputError` for a single text, and for lists that are not one for each user.
    """
    if isinstance(conditions, str):
        raise InputError(f"Conditions are a list of names, not one text. Write [{shown(conditions)}].")
    if is_table(conditions):
        return None
    names = items("The conditions", conditions)
    lists = [
        items("The conditions of a user", name)
        for name in names
        if isinstance(name, Iterable) and not isinstance(name, str)
    ]
    if not lists:
        return None
    if not len(lists) == len(names) == n:
        raise InputError(
            f"Conditions are a list of names for all users, or one such list for each of the {n} histories."
        )
    return lists


def is_table(conditions: Any) -> bool:
    """Return whether conditions are a matrix, sparse or dense, and not names."""
    return bool(getattr(conditions, "ndim", 1) == 2)


def _texts(names: Any) -> list[str]:
    """Return the names of one user; raise :class:`InputError` for one that is no text."""
    found = items("The conditions of a user", names)
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"A condition is a name, and not {shown(name)}.")
    return found


def checked(conditions: Any, n: int, width: int) -> Any:
    """Return a matrix of conditions as canonical CSR (n, width) of ones; :class:`InputError` for another shape."""
    conditions = canonical(conditions)
    if conditions.shape != (n, width):
        raise InputError(
            f"The conditions are {conditions.shape[0]} x {conditions.shape[1]}, but there are {n} histories and "
            f"{width} conditions."
        )
    return conditions.astype(bool).astype(np.float32)
