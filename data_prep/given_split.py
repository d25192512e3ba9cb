"""Data that arrive already split: a training file and a test file, as leaderboards publish them.

The published tables (those of LightGCN, He et al. 2020, arXiv 2002.02126, and of its successors on Gowalla, Yelp2018
and Amazon-Book) rank all items but a user's training items and divide the user's hits by all the user's test items. So
that they can be rerun unchanged, nothing is filtered, and

- the catalogue is every item of either file: first those of the training file, then those that only the test file has,
  each in order of first appearance. Test clicks on items without training clicks count, as misses for most models;
- every test user stays, also one without a training click, whose history is empty;
- the validation part comes from the training clicks alone, whatever the test file holds.

One difference remains, a test click that is a training click too. Programs that mask training items count it as a miss;
here a click is either fold-in or held-out, and such a test click is dropped, and counted in the manifest.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from data_prep.choices import check_min_rating, check_name
from data_prep.dataset import Dataset
from data_prep.doubts import Warn, doubts_about, doubts_about_titles
from data_prep.interactions import Ids, Interactions
from data_prep.lines import looks_like_lines, read_lines
from data_prep.pipeline import filter_interactions, matching_titles, matching_user_tags
from data_prep.readers import column_names, read_interactions
from data_prep.splits import (
    LIANG_SEED,
    Split,
    ascending_users,
    catalogue_of,
    check_seed,
    clicks_matrix,
    random_order,
)
from data_prep.spool import all_rereadable
from data_prep.streams import ByteSource, Progress, readable
from data_prep.titles import Titles
from recvae.arguments import Frame, real_number
from recvae.errors import DataError, InputError
from recvae.frames.tables import Table

VALIDATION_SHARE = 0.1

_TRAIN, _VALIDATION, _TEST = 0, 1, 2


def prepare_given(
    train: str | Path | Frame,
    test: str | Path | Frame,
    *,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    min_rating: float | None = None,
    validation_share: float = VALIDATION_SHARE,
    titles: str | Path | None = None,
    user_tags: str | Path | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    seed: int = LIANG_SEED,
    name: str | None = None,
    progress: Progress | None = None,
    warn: Warn = lambda sentence: None,
) -> Dataset:
    """Make a dataset of clicks that arrive split into training and test; nothing is written (:meth:`Dataset.save`).

    ``train`` and ``test`` are tables (CSV, TSV, Parquet, data frames), which need ``user_column`` and ``item_column``,
    or text files with lines of ``user item item ...``: files are taken for lines where their first line has blanks
    alone between its words, unless a ``separator`` is given. Ratings below ``min_rating`` are left out and repeated
    clicks collapsed; there is no other filter. :func:`split_given` describes the split, and the manifest has the
    numbers of dropped clicks with the reasons. The dataset is called ``name``, else after the training file, or after
    its folder where the file is called train. Files may be pipes, and ``warn`` is called, as in :func:`prepare`.

    Raises :class:`InputError` or its child :class:`DataError` for options or data that cannot be used.
    """
    min_rating = check_min_rating(min_rating)
    check_name(name)
    _check_options(validation_share, seed)
    table: dict[str, Any] = {"rating_column": rating_column, "columns": columns, "separator": separator}
    parts: list[Interactions] = []
    dropped: dict[str, int] = {}
    with all_rereadable((train, test), (titles, user_tags), progress) as (clicks, (titles_file, tags_file)):
        for source in clicks:
            read, is_table = _read(source, user_column, item_column, progress, **table)
            if is_table:
                doubts = doubts_about(source, read, **table, unused_ratings=min_rating is None)
                for doubt in doubts:
                    warn(doubt)
            data, counts = filter_interactions(read, min_rating, 0, 0)
            parts.append(data)
            dropped = {reason: dropped.get(reason, 0) + count for reason, count in counts.items()}
        everything = _joined(*parts)
        texts = Titles() if titles_file is None else matching_titles(titles_file, everything)
        people = None if tags_file is None else matching_user_tags(tags_file, everything)
        (file, digest), (test_file, test_digest) = map(_source, clicks)
        name = name or _name(clicks[0])
    about = {
        "source": {"kind": "given", "file": file, "sha256": digest, "test_file": test_file, "test_sha256": test_digest},
        "filters": {"min_rating": min_rating, "min_items_per_user": 0, "min_users_per_item": 0, "k_core": False},
        "protocol": {"split": "given", "validation_share": validation_share, "seed": seed},
        "before_split": {
            "users": everything.n_users,
            "items": everything.n_items,
            "clicks": len(everything),
            "users_only_in_test": everything.n_users - parts[0].n_users,
            "items_only_in_test": everything.n_items - parts[0].n_items,
        },
        "dropped": dropped,
    }
    split = split_given(*parts, validation_share=validation_share, seed=seed)
    if titles is not None:
        for doubt in doubts_about_titles(titles, texts, split.item_ids):
            warn(doubt)
    return Dataset.from_split(
        split, name=name, about=about, titles=texts.titles, item_tags=texts.tags, user_tags=people
    )


def split_given(
    train: Interactions, test: Interactions, *, validation_share: float = VALIDATION_SHARE, seed: int = LIANG_SEED
) -> Split:
    """Make the matrices of clicks that arrive split; both without duplicates, ids matched as texts.

    Of each user's n training clicks ``int(validation_share * n)``, drawn with ``seed``, are ``validation_out``; the
    rest is ``train``, and ``validation_in`` its rows of the users with validation clicks. ``test_out`` is the test
    clicks without those that are training clicks too, and ``test_in`` all training clicks of the same users, validation
    clicks included. The catalogue is every item of either part; a test user may have an empty row in ``test_in``.

    Raises :class:`InputError` for an option out of range and :class:`DataError` where no validation
    or no test click is left.
    """
    _check_options(validation_share, seed)
    for clicks in (train, test):
        if not len(clicks):
            raise DataError(f"{clicks.label} has no clicks.")
    drawn, place, n = random_order(train, seed)
    cut = drawn[place < (validation_share * n).astype(np.int64)]
    if not cut.size:
        raise DataError(
            f"A validation share of {validation_share} takes no click of {train.label}: its users have at most"
            f" {n.max():,} training clicks each. Take a larger --validation-share."
        )
    data = _joined(train, test)
    part = np.repeat(np.array([_TRAIN, _TEST], dtype=np.int8), [len(train), len(test)])
    part[cut] = _VALIDATION
    repeated = _repeated(data, len(train))
    if repeated.all():
        raise DataError(
            f"Every click of {test.label} is also one of {train.label}, so there is nothing to find. Give the test"
            " clicks that training does not have."
        )
    kept = np.ones(len(data), dtype=bool)
    kept[len(train) :] = ~repeated
    testers = np.unique(test.user).size  # before any click is dropped
    data, part = data.select(kept), part[kept]
    split = _matrices(data, part)
    dropped = {
        "test_clicks_also_in_training": int(np.count_nonzero(repeated)),
        "test_users_left_without_clicks": testers - split.test_out.shape[0],
    }
    return replace(split, dropped=dropped)


def _check_options(validation_share: float, seed: int) -> None:
    if not 0 < real_number("The validation share", validation_share) < 1:
        raise InputError(f"The validation share must lie between 0 and 1, and {validation_share} does not.")
    check_seed(seed)


def _matrices(data: Interactions, part: npt.NDArray[np.int8]) -> Split:
    """Make the matrices of clicks, training rows first, from the part of each click, (n,)."""
    catalogue, column_of = catalogue_of(data, data.item)
    users = ascending_users(data)
    ids: dict[str, Ids] = {}
    matrices: dict[str, csr_array] = {}
    for name, code, shown in (
        ("train", _TRAIN, None),
        ("validation", _VALIDATION, part == _TRAIN),
        ("test", _TEST, part != _TEST),
    ):
        mine = part == code
        active = np.bincount(data.user[mine], minlength=len(data.user_ids)) > 0
        members = users[active[users]]
        ids[name] = data.user_ids[members]
        row_of = np.zeros(len(data.user_ids), dtype=np.int32)
        row_of[members] = np.arange(members.size)
        wanted = {"train": mine} if shown is None else {f"{name}_in": shown & active[data.user], f"{name}_out": mine}
        for matrix, clicks in wanted.items():
            rows = np.flatnonzero(clicks)
            places = row_of[data.user[rows]], column_of[data.item[rows]]
            matrices[matrix] = clicks_matrix(*places, (members.size, catalogue.size))
    return Split(**matrices, user_ids=ids, item_ids=data.item_ids[catalogue])


def _joined(train: Interactions, test: Interactions) -> Interactions:
    """Return the rows of both parts, training first, with common codes."""
    user_ids, of_user = _common(train.user_ids, test.user_ids)
    item_ids, of_item = _common(train.item_ids, test.item_ids)
    return Interactions(
        user=np.concatenate([train.user, of_user[test.user]]),
        item=np.concatenate([train.item, of_item[test.item]]),
        user_ids=user_ids,
        item_ids=item_ids,
        label=train.label,
    )


def _common(ours: Ids, theirs: Ids) -> tuple[Ids, npt.NDArray[np.int32]]:
    """Return the ids of both, ``ours`` first, and the place of each of ``theirs`` among them."""
    places = {name: place for place, name in enumerate(ours)}
    of_theirs = np.array([places.setdefault(name, len(places)) for name in theirs], dtype=np.int32)
    return np.array(list(places), dtype=np.object_), of_theirs


def _repeated(data: Interactions, n_train: int) -> npt.NDArray[np.bool_]:
    """Return for each row from ``n_train`` on whether a row before ``n_train`` holds the same click."""
    keys = data.user.astype(np.int64) * len(data.item_ids) + data.item
    return np.isin(keys[n_train:], keys[:n_train])


# --- files -------------------------------------------------------------------------------------------------------


def _read(
    source: ByteSource | Table,
    user_column: str | None,
    item_column: str | None,
    progress: Progress | None,
    *,
    rating_column: str | None,
    columns: Sequence[str] | None,
    separator: str | None,
) -> tuple[Interactions, bool]:
    """Read a table or lines of ``user item item ...``; also return whether it was a table."""
    if isinstance(source, ByteSource) and separator is None and looks_like_lines(source):
        if any(option is not None for option in (user_column, item_column, rating_column, columns)):
            raise InputError(
                f"{source} holds lines of 'user item item ...', which have no columns: leave out the options about"
                " columns. If it is a table, give its --separator."
            )
        return read_lines(source, progress=progress), False
    if user_column is None or item_column is None:
        has = ", ".join(column_names(source, columns=columns, separator=separator)[:20])
        what = str(source) if isinstance(source, ByteSource) else "The data frame"
        raise InputError(
            f"{what} holds no lines of 'user item item ...' with blanks between the ids: for a table, name the columns"
            f" with --user-column and --item-column (it has {has})."
        )
    options: dict[str, Any] = {"rating_column": rating_column, "columns": columns, "separator": separator}
    return read_interactions(source, user_column, item_column, progress=progress, **options), True


def _source(source: ByteSource | Table) -> tuple[str | None, str | None]:
    """Return a file's name and SHA-256, nothing for a frame."""
    return (source.origin, source.digest()) if isinstance(source, ByteSource) else (None, None)


def _name(train: ByteSource | Table) -> str:
    if not isinstance(train, ByteSource):
        return "data frame"
    stem = Path(train.name).stem
    return (readable(train.path.resolve().parent.name) or stem) if stem.lower() == "train" else stem
