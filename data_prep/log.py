"""A log of clicks in the order of time, and what could be learned from it at some moment.

``recvae backtest`` reads a log once, and asks at each refit for the dataset of the clicks before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_prep.choices import check_min_rating
from data_prep.dataset import Dataset
from data_prep.interactions import Interactions
from data_prep.moments import Times
from data_prep.parts import find_parts
from data_prep.pipeline import Raw, find_known, read_other, read_release
from data_prep.splits import no_times
from data_prep.spool import all_rereadable
from data_prep.streams import Progress
from data_prep.time_split import TimeRules, earliest_of_repeated, split_by_time
from data_prep.titles import Titles
from recvae.arguments import Frame
from recvae.errors import InputError
from recvae.files import JsonObject
from recvae.frames.ids import Columns


@dataclass(frozen=True, eq=False)
class ClickLog:
    """Clicks in the order of their times, each pair of user and item once, at its first time; file order at equal ones.

    ``source`` tells where the clicks come from and which filters were applied.
    """

    name: str
    data: Interactions
    source: JsonObject
    titles: Titles

    @property
    def times(self) -> Times:
        """The times, (n,), ascending."""
        assert self.data.time is not None  # read_log needs them
        return self.data.time

    def known_at(self, moment: float, rules: TimeRules) -> Dataset:
        """Return the dataset of the clicks before ``moment``: training and a validation window, and no test part.

        The cutoff of ``rules`` is not read. Raises :class:`DataError` where too few clicks lie before the moment.
        """
        earlier = self.data.select(np.arange(int(np.searchsorted(self.times, moment, side="left"))))
        split, cuts = split_by_time(earlier, rules, until=moment)
        about = {
            "source": self.source,
            "filters": {"min_items_per_user": rules.min_items_per_user, "min_users_per_item": rules.min_users_per_item},
            "protocol": {"split": "time", "validation_from": cuts.validation, "test_from": moment},
        }
        return Dataset.from_split(
            split, name=self.name, about=about, titles=self.titles.titles, item_tags=self.titles.tags
        )


def read_log(
    name_or_file: str | Path | Frame,
    *,
    source: str | Path | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    min_rating: float | None = None,
    progress: Progress | None = None,
) -> ClickLog:
    """Read the log of a known dataset, or of a file whose columns are named; arguments as of :func:`data_prep.prepare`.

    Raises :class:`InputError` or its child :class:`DataError` for options or data that cannot be used.
    """
    release = find_known(name_or_file)
    least = check_min_rating(min_rating)
    named = Columns(user_column or "", item_column or "", rating_column, time_column)
    if release is not None:
        if named != Columns("", "") or columns is not None or separator is not None:
            raise InputError(f"The columns of {release.name} are known; leave the options of a file's form out.")
        raw = read_release(release, source, True, progress, None)
        least = release.min_rating if least is None else least
    else:
        raw = _read_file(name_or_file, source, named, progress, columns=columns, separator=separator)
    data = raw.data
    if data.time is None:
        raise no_times("time", data.label)
    if least is not None:
        data = data.with_min_rating(least)
    data, repeated = earliest_of_repeated(replace(data, rating=None))
    assert data.time is not None
    ordered = data.select(np.argsort(data.time, kind="stable"))
    return ClickLog(raw.name, ordered, {**raw.source, "min_rating": least, "duplicate_clicks": repeated}, raw.titles)


def _read_file(
    name_or_file: str | Path | Frame,
    source: str | Path | None,
    named: Columns,
    progress: Progress | None,
    *,
    columns: Sequence[str] | None,
    separator: str | None,
) -> Raw:
    if source is not None:
        raise InputError("--source belongs to the name of a known dataset; a file is its own source.")
    if not named.time:
        raise InputError("A log needs times: name their column with --time-column.")
    parts = find_parts(name_or_file)
    one = [] if parts is not None else [name_or_file]
    with all_rereadable(one, (), progress) as (clicks, _):
        return read_other(
            parts or clicks[0],
            named.user or None,
            named.item or None,
            progress,
            rating_column=named.rating,
            time_column=named.time,
            columns=columns,
            separator=separator,
        )
