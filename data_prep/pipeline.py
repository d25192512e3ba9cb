"""From a name or a file to a dataset: read, filter, split. ``recvae prepare NAME|FILE`` calls :func:`prepare`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import has_magic
from pathlib import Path

from data_prep.choices import Choices, check_name
from data_prep.dataset import Dataset
from data_prep.doubts import Warn, doubts_about, doubts_about_titles
from data_prep.interactions import Interactions
from data_prep.parts import Parts, find_parts, read_parts
from data_prep.ratings import split_ratings
from data_prep.readers import column_names, read_interactions
from data_prep.sources import RELEASES, Release, find_release, locate
from data_prep.splits import LIANG_SEED, TIME, Split, make_split
from data_prep.spool import all_rereadable, is_stdin
from data_prep.streams import ByteSource, Progress
from data_prep.time_split import Cuts, earliest_of_repeated, split_by_time
from data_prep.titles import Titles, read_titles, read_user_tags
from recvae.arguments import Frame
from recvae.errors import DataError, InputError
from recvae.files import JsonObject
from recvae.frames.ids import Columns
from recvae.frames.tables import Table


@dataclass(frozen=True, eq=False)
class Raw:
    """The data of a source before any filter."""

    name: str
    data: Interactions
    source: JsonObject
    titles: Titles = field(default_factory=Titles)
    user_tags: dict[str, dict[str, str]] = field(default_factory=dict)


def prepare(
    name_or_file: str | Path | Frame,
    *,
    source: str | Path | None = None,
    user_column: str | None = None,
    item_column: str | None = None,
    rating_column: str | None = None,
    time_column: str | None = None,
    min_rating: float | None = None,
    min_items_per_user: int = 5,
    min_users_per_item: int = 0,
    k_core: bool = False,
    split: str = "strong",
    held_out_users: int | None = None,
    held_out_share: float = 0.2,
    titles: str | Path | None = None,
    user_tags: str | Path | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    seed: int = LIANG_SEED,
    ratings: bool = False,
    cutoff: str | float | None = None,
    validation_share: float | None = None,
    first_clicks: int | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    warn: Warn = lambda sentence: None,
    cache: Path | None = None,
) -> Dataset:
    """Read, filter and split a known dataset, a file or a data frame; nothing is written (see :meth:`Dataset.save`).

    The name of a known dataset wins over a file so named; ``source`` is then a local archive or unpacked folder, and
    without it the archive is downloaded (to ``cache``). A file needs ``user_column`` and ``item_column``; it may be a
    pipe, and ``-`` is standard input, as for ``titles`` and ``user_tags``. A folder, or a pattern such as
    ``clicks/*.parquet``, is a table in several files (:mod:`data_prep.parts`). The dataset is called ``name``, or as
    its source is. ``warn`` is called with a sentence about data that are probably not used as meant.

    Order: rating at least ``min_rating`` (known datasets: 4 unless given, the papers' "> 3.5"; files: none unless
    given); duplicate clicks collapsed to the first; then items with at least ``min_users_per_item`` users and after
    that users with at least ``min_items_per_user`` items, one pass each as in Liang et al. (2018), or with ``k_core``
    both repeated until nothing changes; then the split. ``held_out_users`` defaults to the papers' 10,000 for ml-20m
    (and 25m, 32m), to 600 for ml-1m, 100 for ml-100k, and else to a tenth of the users, at most 10,000. With
    ``ratings`` the ratings of the split's users are kept beside their clicks (:mod:`data_prep.ratings`); no click
    changes its place.

    ``split="time"`` is that of :mod:`data_prep.time_split`: ``cutoff`` is a date, a share of the clicks (default
    0.8) or a time in the column's unit; ``validation_share`` (default 0.1) of the clicks before it, the latest, are
    for validation; ``first_clicks`` (default 5) at most are shown of a new user. Of repeated clicks the earliest stays,
    and the filters, but for the rating, look at the training clicks alone.

    Raises :class:`InputError` or its child :class:`DataError` for options or data that cannot be used, and
    :class:`WorkError` for a failed download.
    """
    choices = Choices(
        min_rating=min_rating,
        min_items_per_user=min_items_per_user,
        min_users_per_item=min_users_per_item,
        k_core=k_core,
        split=split,
        held_out_users=held_out_users,
        held_out_share=held_out_share,
        seed=seed,
        ratings=ratings,
        cutoff=cutoff,
        validation_share=validation_share,
        first_clicks=first_clicks,
    )
    check_name(name)
    release = find_known(name_or_file)
    parts = None if release is not None else find_parts(name_or_file)
    if release is not None:
        if any(option is not None for option in (user_column, item_column, rating_column, time_column)):
            raise InputError(f"The columns of {release.name} are known; leave the column options out.")
        if columns is not None or separator is not None:
            raise InputError(f"The form of {release.name} is known; leave --columns and --separator out.")
        if min_rating is None:
            choices = replace(choices, min_rating=release.min_rating)
    else:
        if source is not None:
            raise InputError("--source belongs to the name of a known dataset; a file is its own source.")
        check_rating_column(choices, rating_column)
    options = {"rating_column": rating_column, "time_column": time_column, "separator": separator}
    one = [name_or_file] if release is None and parts is None else []
    with all_rereadable(one, (titles, user_tags), progress) as (clicks, (titles_file, tags_file)):
        if release is not None:
            raw = read_release(release, source, choices.needs_time, progress, cache)
        else:
            raw = read_other(parts or clicks[0], user_column, item_column, progress, columns=columns, **options)
            unused = choices.min_rating is None and not ratings
            first = ByteSource(parts.files[0]) if parts else clicks[0]
            for doubt in doubts_about(first, raw.data, columns, separator, rating_column, unused_ratings=unused):
                warn(doubt)
        texts = raw.titles if titles_file is None else matching_titles(titles_file, raw.data)
        people = raw.user_tags if tags_file is None else matching_user_tags(tags_file, raw.data)

    made, cuts, choices, before, dropped = _split(
        raw.data, choices, None if release is None else release.held_out_users
    )
    graded = None
    if ratings:
        share, seed = choices.held_out_share, choices.seed
        graded = split_ratings(raw.data, made, min_rating=choices.min_rating, held_out_share=share, seed=seed)
    if titles is not None:
        for doubt in doubts_about_titles(titles, texts, made.item_ids):
            warn(doubt)
    return Dataset.from_split(
        made,
        name=name or raw.name,
        about=choices.about(raw.source, before, dropped, cuts),
        titles=texts.titles,
        item_tags=texts.tags,
        user_tags=people,
        ratings=graded,
    )


def _split(
    data: Interactions, choices: Choices, known: int | None
) -> tuple[Split, Cuts | None, Choices, dict[str, int], dict[str, int]]:
    """Return the split, the cuts of one by time, the choices with all numbers, the counts before it, and drops."""
    if choices.split == TIME:
        start = len(data)
        if choices.min_rating is not None:
            data = data.with_min_rating(choices.min_rating)
        dropped = {"rows_below_min_rating": start - len(data)}
        data, dropped["duplicate_clicks"] = earliest_of_repeated(replace(data, rating=None))
        made, cuts = split_by_time(data, choices.time_rules)
        return made, cuts, choices, _counts(data), dropped
    data, dropped = filter_interactions(
        data, choices.min_rating, choices.min_items_per_user, choices.min_users_per_item, k_core=choices.k_core
    )
    choices = choices.for_users(data.n_users, known)
    share, seed = choices.held_out_share, choices.seed
    made = make_split(data, choices.split, held_out_users=choices.held_out_users, held_out_share=share, seed=seed)
    return made, None, choices, _counts(data), dropped


def _counts(data: Interactions) -> dict[str, int]:
    return {"users": data.n_users, "items": data.n_items, "clicks": len(data)}


def filter_interactions(
    data: Interactions,
    min_rating: float | None = None,
    min_items_per_user: int = 5,
    min_users_per_item: int = 0,
    *,
    k_core: bool = False,
) -> tuple[Interactions, dict[str, int]]:
    """Apply the filters in the order that :func:`prepare` states; also return the number of rows that each removed.

    Raises :class:`DataError` naming the filter that leaves nothing.
    """
    dropped = {}
    start = len(data)
    if min_rating is not None:
        data = data.with_min_rating(min_rating)
    data = replace(data, rating=None)  # of no more use
    dropped["rows_below_min_rating"] = start - len(data)
    data, dropped["duplicate_clicks"] = data.without_duplicates()
    start = len(data)
    if k_core:
        data = data.k_core(min_items_per_user, min_users_per_item)
    else:
        data = data.with_min_users_per_item(min_users_per_item).with_min_items_per_user(min_items_per_user)
    dropped["clicks_of_rare_items_or_users"] = start - len(data)
    return data, dropped


def check_rating_column(choices: Choices, rating_column: str | None) -> None:
    """Raise :class:`InputError` for a minimum rating without a column of ratings."""
    if choices.min_rating is not None and rating_column is None:
        raise InputError("A minimum rating needs the column of the ratings: name it with --rating-column.")


def find_known(name_or_file: object) -> Release | None:
    """Return the known dataset of this name, None for a file or frame; raise :class:`InputError` for another name."""
    if not isinstance(name_or_file, str) or is_stdin(name_or_file):
        return None
    if name_or_file.lower() in RELEASES:
        return RELEASES[name_or_file.lower()]
    is_bare = Path(name_or_file).name == name_or_file and "." not in name_or_file and not has_magic(name_or_file)
    if is_bare and not Path(name_or_file).exists():
        return find_release(name_or_file)  # raises, with the nearest name
    return None  # a path: the reader raises where there is no such file


def read_release(
    release: Release, source: str | Path | None, needs_time: bool, progress: Progress | None, cache: Path | None
) -> Raw:
    """Return the clicks of a known dataset, from ``source`` or downloaded."""
    found = locate(release, source, progress=progress, cache=cache)
    how, file = found.ratings()
    data = read_interactions(
        file,
        how.user,
        how.item,
        rating_column=how.rating,
        time_column=how.time if needs_time else None,
        columns=how.columns,
        separator=how.separator,
        progress=progress,
    )
    return Raw(release.name, data, found.about(), found.titles(), found.user_tags())


def read_other(
    source: ByteSource | Parts | Table,
    user_column: str | None,
    item_column: str | None,
    progress: Progress | None,
    *,
    rating_column: str | None,
    time_column: str | None,
    columns: Sequence[str] | None,
    separator: str | None,
) -> Raw:
    """Return the clicks of a file, a table in parts or a frame; raise :class:`InputError` without names of columns."""
    if user_column is None or item_column is None:
        raise columns_missing(source, columns, separator)
    if isinstance(source, Parts):
        want = Columns(user_column, item_column, rating_column, time_column)
        data = read_parts(source, want, columns=columns, separator=separator, progress=progress)
        return Raw(source.name, data, source.about())
    data = read_interactions(
        source,
        user_column,
        item_column,
        rating_column=rating_column,
        time_column=time_column,
        columns=columns,
        separator=separator,
        progress=progress,
    )
    if isinstance(source, ByteSource):
        return Raw(Path(source.name).stem, data, {"kind": "file", "file": source.origin, "sha256": source.digest()})
    return Raw("data frame", data, {"kind": "frame", "file": None, "sha256": None})


def columns_missing(
    source: ByteSource | Parts | Table, columns: Sequence[str] | None, separator: str | None
) -> InputError:
    """Return the error for columns that are not named: it lists those that there are."""
    first = ByteSource(source.files[0]) if isinstance(source, Parts) else source
    has = ", ".join(column_names(first, columns=columns, separator=separator))
    if isinstance(source, Table):
        return InputError(f"Name the columns of users and items: user_column=..., item_column=... (there are {has}).")
    return InputError(f"Name the columns with --user-column and --item-column; the data have {has}.")


def matching_user_tags(file: str | Path | ByteSource, data: Interactions) -> dict[str, dict[str, str]]:
    """Read user attributes; raise :class:`DataError` where they are of none of the users of ``data``."""
    tags = read_user_tags(file)
    if not any(user in tags for user in data.user_ids):
        raise no_users_named(file, tags, data.label, data.user_ids[0])
    return tags


def matching_titles(file: str | Path | ByteSource, data: Interactions) -> Titles:
    """Read titles and tags; raise :class:`DataError` where they name none of the items of ``data``."""
    texts = read_titles(file)
    if not any(item in texts.titles for item in data.item_ids):
        raise no_items_named(file, texts.titles, data.label, data.item_ids[0])
    return texts


def no_users_named(file: object, tags: Mapping[str, object], label: str, first: str) -> DataError:
    """Return the error for user attributes of none of the users; ``first`` is the first user's id."""
    return DataError(
        f"{file} names none of the users of {label}: its first id is {next(iter(tags), '')!r}, and the data"
        f" have {first!r}. Its first column must hold user ids."
    )


def no_items_named(file: object, titles: Mapping[str, object], label: str, first: str) -> DataError:
    """Return the error for titles of none of the items; ``first`` is the first item's id."""
    return DataError(
        f"{file} names none of the items of {label}: its first id is {next(iter(titles), '')!r}, and the data have"
        f" {first!r}. Its first column must hold item ids."
    )
