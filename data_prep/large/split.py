"""The splits of :mod:`data_prep.splits`, block by block of whole users in ascending order, draw for draw.

A split is gone through twice: first to learn the catalogue, which the training clicks make, and then to write the
matrices. Both times each click is given the same part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from data_prep.choices import Choices
from data_prep.large.clicks import Block, Numbers, Times
from data_prep.large.engine import Engine
from data_prep.large.matrices import Matrices
from data_prep.manifest import SPLITS
from data_prep.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    draw_held_out,
    last_out_parts,
    no_times,
    no_training_clicks,
    no_users,
    random_parts,
    strong_places,
    temporal_parts,
    temporal_places,
)

Part = npt.NDArray[np.int8]
Blocks = Callable[[], Iterator[Block]]


@dataclass
class Parted:
    """A split: for each of "train", "validation" and "test" the places of its users among all, and the catalogue."""

    members: dict[str, Numbers]
    catalogue: Numbers  # item codes, by first appearance among the training clicks
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Clicks to be split: their blocks, as often as they are asked for, and their sizes. ``label`` is for messages."""

    blocks: Blocks
    n_users: int
    n_items: int  # item codes; not all need have clicks
    n_clicks: int
    engine: Engine
    label: str


def split_blocks(source: Source, choices: Choices, matrices: Matrices) -> Parted:
    """Write the matrices of a split into ``matrices``; choices and errors as in :func:`data_prep.splits.make_split`."""
    return _strong(source, choices, matrices) if choices.split == "strong" else _weak(source, choices, matrices)


def _strong(source: Source, choices: Choices, matrices: Matrices) -> Parted:
    places = strong_places(source.n_users, choices.held_out_users, choices.seed, source.label)
    part_of = np.empty(source.n_users, np.int8)
    for code, name in enumerate(SPLITS):
        part_of[places[name]] = code
    first = _First(source.n_items)
    for block in source.blocks():
        first.add(block, part_of[block.first + block.users] == TRAIN)
    catalogue, column_of = first.catalogue()
    matrices.begin(len(catalogue))
    # The authors seed again for each of validation and test.
    draws = {code: np.random.RandomState(choices.seed) for code in (VALIDATION, TEST)}
    dropped = dict.fromkeys((f"{name}_clicks_outside_catalogue" for name in SPLITS[1:]), 0)
    for block in source.blocks():
        part = part_of[block.first : block.first + len(block.counts)]
        for code, name in enumerate(SPLITS):
            rows, columns = _rows_of(block, part == code, column_of)
            n_rows = int(np.count_nonzero(part == code))
            if code == TRAIN:
                matrices.add("train", n_rows, rows, columns)
                continue
            known = columns >= 0
            dropped[f"{name}_clicks_outside_catalogue"] += int(np.count_nonzero(~known))
            rows, columns = rows[known], columns[known]
            held = draw_held_out(np.bincount(rows, minlength=n_rows), choices.held_out_share, draws[code])
            matrices.add(f"{name}_in", n_rows, rows[~held], columns[~held])
            matrices.add(f"{name}_out", n_rows, rows[held], columns[held])
    return Parted(places, catalogue, dropped)


def _weak(source: Source, choices: Choices, matrices: Matrices) -> Parted:
    parts_of = _method(source, choices)
    has = np.zeros((3, source.n_users), bool)
    first = _First(source.n_items)
    parts = parts_of()
    for block in source.blocks():
        part = parts(block)
        users = block.users
        for code in (TRAIN, VALIDATION, TEST):
            has[code, block.first + users[part == code]] = True
        first.add(block, part == TRAIN)
    if not has[TRAIN].any():
        raise no_training_clicks(choices.split, source.label)
    catalogue, column_of = first.catalogue()
    members = {"train": has[TRAIN]}
    dropped: dict[str, int] = {}
    for code, name in ((VALIDATION, "validation"), (TEST, "test")):
        dropped[f"{name}_users_without_training_clicks"] = int(np.count_nonzero(has[code] & ~has[TRAIN]))
        members[name] = has[code] & has[TRAIN]
        if not members[name].any():
            raise no_users(choices.split, name, source.label)
        dropped[f"{name}_clicks_outside_catalogue"] = 0
    matrices.begin(len(catalogue))
    parts = parts_of()
    for block in source.blocks():
        part = parts(block)
        for code, name in enumerate(SPLITS):
            mine = members[name][block.first : block.first + len(block.counts)]
            n_rows = int(np.count_nonzero(mine))
            rows, columns = _rows_of(block, mine, column_of)
            of_rows = part[np.repeat(mine, block.counts)]
            shown = of_rows <= code
            rows, columns, held = rows[shown], columns[shown], of_rows[shown] == code
            if code == TRAIN:
                matrices.add("train", n_rows, rows, columns)
                continue
            known = columns >= 0
            dropped[f"{name}_clicks_outside_catalogue"] += int(np.count_nonzero(held & ~known))
            for matrix, chosen in ((f"{name}_in", known & ~held), (f"{name}_out", known & held)):
                matrices.add(matrix, n_rows, rows[chosen], columns[chosen])
    places = {name: np.flatnonzero(mask) for name, mask in members.items()}
    return Parted(places, catalogue, dropped)


def _method(source: Source, choices: Choices) -> Callable[[], Callable[[Block], Part]]:
    """Return a maker of functions that give each click of a block its part, block after block."""
    share = choices.held_out_share
    if choices.split == "random":

        def drawing() -> Callable[[Block], Part]:
            draw = np.random.RandomState(choices.seed)
            return lambda block: random_parts(block.users, block.counts, draw.random_sample(len(block.items)), share)

        return drawing

    def times(block: Block) -> Times:
        if block.times is None:
            raise no_times(choices.split, source.label)
        return block.times

    if choices.split == "last-out":
        return lambda: lambda block: last_out_parts(block.users, block.counts, times(block))
    places = temporal_places(source.n_clicks, share, source.label)
    cuts = source.engine.in_order((times(block) for block in source.blocks()), places)
    return lambda: lambda block: temporal_parts(times(block), *cuts)


class _First:
    """The first row of each item's clicks, over all files."""

    def __init__(self, n_items: int) -> None:
        self.rows = np.full(n_items, np.iinfo(np.int64).max)

    def add(self, block: Block, chosen: npt.NDArray[np.bool_]) -> None:
        """Take the chosen clicks of a block (n,) into account."""
        np.minimum.at(self.rows, block.items[chosen], block.numbers[chosen])

    def catalogue(self) -> tuple[Numbers, npt.NDArray[np.int32]]:
        """Return the item codes by first appearance, and for each item code its column or -1."""
        seen = np.flatnonzero(self.rows < np.iinfo(np.int64).max)
        codes = seen[np.argsort(self.rows[seen])]
        column_of = np.full(len(self.rows), -1, np.int32)
        column_of[codes] = np.arange(len(codes), dtype=np.int32)
        return codes, column_of


def _rows_of(
    block: Block, chosen: npt.NDArray[np.bool_], column_of: npt.NDArray[np.int32]
) -> tuple[Numbers, npt.NDArray[np.int32]]:
    """Return the clicks of the ``chosen`` users (u,) of a block: the user's place among them, and the column or -1."""
    mine = np.repeat(chosen, block.counts)
    rows = np.repeat(np.cumsum(chosen) - 1, block.counts)[mine]
    return rows, column_of[block.items[mine]]
