"""Separated text read without Arrow, for programs that serve exported models and have none: to the same result."""

import numpy as np

from data_prep.columns import is_number, no_number
from data_prep.interactions import Interactions
from data_prep.streams import ByteSource
from data_prep.titles import read_rows
from recvae.errors import DataError
from recvae.frames.ids import Columns, check_columns, row_error, whole_ids


def from_rows(file: ByteSource, want: Columns, separator: str) -> Interactions:
    """Read users, items and ratings of one separated text file with a header, in file order, a row at a time.

    Raises :class:`DataError` naming the file and the first row that cannot be used.
    """
    rows = read_rows(file, separator)
    names = next(rows)
    check_columns(file, want, names, separator)
    codes: dict[str, list[int]] = {want.user: [], want.item: []}
    ids: dict[str, dict[str, int]] = {want.user: {}, want.item: {}}
    ratings: list[float] = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise row_error(file, number, f"it has {len(row)} fields, and the header has {len(names)}.")
        of_row = dict(zip(names, row, strict=True))
        for name in (want.user, want.item):
            if not of_row[name]:
                raise row_error(file, number, f"the id in column '{name}' is empty.")
            codes[name].append(ids[name].setdefault(of_row[name], len(ids[name])))
        if want.rating is not None:
            text = of_row[want.rating]
            if not is_number(text.encode()):
                raise row_error(file, number, no_number("rating", text, want.rating))
            ratings.append(float(text))
    if not codes[want.user]:
        raise DataError(f"{file} has no rows.")
    user_ids, item_ids = (np.array(whole_ids(ids[name]), dtype=np.object_) for name in (want.user, want.item))
    return Interactions(
        user=np.array(codes[want.user], dtype=np.int32),
        item=np.array(codes[want.item], dtype=np.int32),
        user_ids=user_ids,
        item_ids=item_ids,
        rating=None if want.rating is None else np.array(ratings, dtype=np.float64),
        label=str(file),
    )
