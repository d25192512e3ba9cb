"""From files of clicks to a dataset folder within a limit of memory, byte for byte as in memory.

Read in pieces, ratings below the minimum left out; ids to numbers; sorted by user and row; repeated clicks left out;
filters; split; matrices written user by user. Temporary files hold the clicks between these steps.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.choices import Choices, check_name
from data_prep.columns import Rows, interactions
from data_prep.dataset import Dataset
from data_prep.doubts import Warn, doubts_about, doubts_about_titles
from data_prep.interactions import nothing_left
from data_prep.large.clicks import filtered, write_clicks
from data_prep.large.engine import Engine, engine
from data_prep.large.matrices import Matrices
from data_prep.large.seen import Seen
from data_prep.large.split import Source, split_blocks
from data_prep.manifest import SPLITS
from data_prep.parts import Parts, find_parts, pieces_of_parts
from data_prep.pipeline import check_rating_column, columns_missing, find_known, no_items_named, no_users_named
from data_prep.splits import LIANG_SEED, TIME, no_times
from data_prep.spool import all_rereadable, is_stdin
from data_prep.streams import ByteSource, Progress
from data_prep.titles import Titles, read_titles, read_user_tags
from data_prep.writing import new_manifest, seal_folder, write_items, write_user_tags, write_users
from recvae.arguments import path_of
from recvae.errors import InputError
from recvae.files import JsonObject, whole_folder
from recvae.files.swap import PART, clear_parts, remove
from recvae.frames.ids import Columns

LEAST = 1 << 28
"""The least memory that can be asked for, 256 MiB."""

_OF_ENGINE = 60  # percent of the memory that DuckDB may take; pieces, sorted blocks and ids need the rest
_CLICKS = 1 << 22  # that are looked at together, at most
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def prepare_large(
    source: str | Path,
    out: str | Path,
    *,
    memory: str | int,
    temp: str | Path | None = None,
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
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    warn: Warn = lambda sentence: None,
) -> Dataset:
    """Write the dataset folder ``out`` from clicks that need not fit into memory, and open it.

    ``source`` is a file, a folder or a pattern (:mod:`data_prep.parts`). ``memory`` is a number of bytes or a text such
    as "2GB": about as much is taken, beside what Python and its libraries need. Temporary files, about as large as the
    clicks, are in ``temp``, or where the folder is written, and are removed at the end. The other arguments, the order
    of the filters and the result are those of :func:`data_prep.prepare`; ratings are not kept.

    Raises :class:`InputError` or its child :class:`DataError` for options or data that cannot be used, or where DuckDB
    is missing, and :class:`WorkError` where memory or disk are too small.
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
    )
    check_name(name)
    if split == TIME:
        raise InputError("A time split is made in memory: leave --memory out, or use --split temporal.")
    check_rating_column(choices, rating_column)
    limit = bytes_of(memory)
    parts = _parts(source)
    if user_column is None or item_column is None:
        raise columns_missing(parts, columns, separator)
    if choices.needs_time and time_column is None:
        raise no_times(split, parts.label)
    want = Columns(user_column, item_column, rating_column, time_column)
    with all_rereadable((), (titles, user_tags), progress) as (_, (titles_file, tags_file)):
        texts = Titles() if titles_file is None else read_titles(titles_file)
        people = {} if tags_file is None else read_user_tags(tags_file)
    beside = _Beside(titles, texts, user_tags, people)
    job = _Job(parts, want, choices, beside, limit, progress, warn)
    place = path_of(out)
    with whole_folder(place, marker="manifest.json", overwrite=overwrite) as folder:
        with _scratch(place, folder, temp) as scratch, engine(scratch, limit * _OF_ENGINE // 100) as database:
            pieces = pieces_of_parts(parts, want, columns=columns, separator=separator, progress=progress)
            dropped, sizes = _read(job, pieces, database, columns, separator)
            manifest = _write(job, database, dropped, sizes, folder, scratch, name or parts.name)
        seal_folder(folder, manifest)
    return Dataset.load(place)


def bytes_of(memory: str | int) -> int:
    """Return the bytes of a text such as "2GB", "1.5 GiB" or "800MB"; raise :class:`InputError` for another."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", str(memory), re.IGNORECASE)
    if match is None:
        raise InputError(f"The memory {str(memory)[:40]!r} is no amount: write it as 2GB or 800MB.")
    found = int(float(match[1]) * _UNITS[(match[2] or "").upper()])
    if found < LEAST:
        raise InputError(f"{memory} of memory are too little: {LEAST >> 20} MiB are needed at least.")
    return found


@dataclass(frozen=True)
class _Beside:
    """The files beside the clicks, as they are named, and what they hold."""

    titles_file: object
    titles: Titles
    tags_file: object
    people: dict[str, dict[str, str]]


@dataclass(frozen=True)
class _Job:
    """What is prepared, and how."""

    parts: Parts
    want: Columns
    choices: Choices
    beside: _Beside
    limit: int
    progress: Progress | None
    warn: Warn

    def tell(self, what: str, done: int, total: int | None = None) -> None:
        if self.progress is not None:
            self.progress(what, done, total)


def _parts(source: str | Path) -> Parts:
    """Return the files to read; raise :class:`InputError` for what is not read in pieces."""
    if is_stdin(source):
        raise InputError("Standard input is read into memory: leave --memory out, or write the clicks to a file.")
    known = find_known(source)
    if known is not None:
        raise InputError(f"{known.name} fits into memory: leave --memory out.")
    found = find_parts(source)
    if found is not None:
        return found
    if Path(source).exists() and not Path(source).is_file():
        raise InputError(f"{source} is read into memory: leave --memory out, or write the clicks to a file.")
    return Parts(str(source), (Path(source),))


@contextmanager
def _scratch(place: Path, folder: Path, temp: str | Path | None) -> Iterator[Path]:
    """Yield a folder for temporary files: below ``temp``, or in the unfinished output; and remove it."""
    if temp is None:
        scratch = folder / "scratch"
        scratch.mkdir()
    else:
        above = path_of(temp)
        if not above.is_dir():
            raise InputError(f"There is no folder {above} for temporary files. Make it, or leave --temp out.")
        # Named after the output's place, whose lock is held: no other process uses this name.
        name = above / f"{place.name}-{hashlib.sha256(str(place.absolute()).encode()).hexdigest()[:8]}"
        clear_parts(name)  # of a process that was killed
        try:
            scratch = Path(tempfile.mkdtemp(prefix=f".{name.name}.", suffix=PART, dir=above))
        except OSError as error:
            raise InputError(f"Nothing can be written to {above} ({error.strerror}). Name another folder.") from error
    try:
        yield scratch
    finally:
        remove(scratch)


def _read(
    job: _Job, pieces: Iterator[Rows], database: Engine, columns: Sequence[str] | None, separator: str | None
) -> tuple[dict[str, int], tuple[int, int]]:
    """Put the clicks into the database and number the ids; return the dropped rows and how many users and items."""
    beside, choices, label = job.beside, job.choices, job.parts.label
    users, items = Seen(beside.people), Seen(beside.titles.titles)
    before = below = 0
    for rows in pieces:
        if not before:
            _doubt(job, rows, columns, separator)
        users.add(rows.user_ids)
        items.add(rows.item_ids)
        chosen = np.arange(len(rows))
        if choices.min_rating is not None:
            assert rows.rating is not None
            chosen = np.flatnonzero(rows.rating >= choices.min_rating)
        below += len(rows) - len(chosen)
        database.add(rows if choices.needs_time else replace(rows, time=None), chosen, before)
        before += len(rows)
    if below == before:
        raise nothing_left(f"rating at least {choices.min_rating:g}", label, before)
    if beside.titles_file is not None and not items.found:
        raise no_items_named(beside.titles_file, beside.titles.titles, label, items.first)
    if beside.tags_file is not None and not users.found:
        raise no_users_named(beside.tags_file, beside.people, label, users.first)
    job.tell("number the ids", 0)
    sizes = database.encode("user", whole=users.whole), database.encode("item", whole=items.whole)
    return {"rows_below_min_rating": below}, sizes


def _doubt(job: _Job, rows: Rows, columns: Sequence[str] | None, separator: str | None) -> None:
    """Warn as :func:`data_prep.prepare` does, by the first piece."""
    first = interactions([rows], job.parts.label)
    rating, unused = job.want.rating, job.choices.min_rating is None
    file = ByteSource(job.parts.files[0])
    for doubt in doubts_about(file, first, columns, separator, rating, unused_ratings=unused):
        job.warn(doubt)


def _write(
    job: _Job,
    database: Engine,
    dropped: dict[str, int],
    sizes: tuple[int, int],
    folder: Path,
    scratch: Path,
    name: str,
) -> JsonObject:
    """Sort, filter and split the clicks, write all files but the manifest, and return it."""
    size = min(_CLICKS, job.limit >> 9)
    clicks = write_clicks(database.sort(), scratch, sizes, size, partial(job.tell, "sort the clicks"))
    kept = filtered(clicks, job.choices, job.parts.label)
    order = database.ascending(kept.users)
    choices = job.choices.for_users(len(order))
    total = kept.n_clicks
    source = Source(
        lambda: clicks.blocks(order, kept.items), len(order), clicks.n_items, total, database, job.parts.label
    )
    with Matrices(folder) as matrices:
        made = split_blocks(source, choices, matrices)
    dropped |= {
        "duplicate_clicks": clicks.duplicates,
        "clicks_of_rare_items_or_users": len(clicks.items) - total,
    }
    ids = list(database.ids("item", made.catalogue))
    texts, people = job.beside.titles, job.beside.people
    tags = {item: texts.tags[item] for item in ids if texts.tags.get(item)}
    write_items(folder, ids, [texts.titles.get(item, "") for item in ids], tags)
    there: set[str] = set()

    def noted(users: Iterator[str]) -> Iterator[str]:
        for user in users:
            if user in people:
                there.add(user)
            yield user

    write_users(folder, ((part, noted(database.ids("user", order[made.members[part]]))) for part in SPLITS))
    write_user_tags(folder, {user: of_user for user, of_user in people.items() if user in there})
    if job.beside.titles_file is not None:
        for doubt in doubts_about_titles(job.beside.titles_file, texts, ids):
            job.warn(doubt)
    return new_manifest(
        name,
        choices.about(job.parts.about(), kept.counts, dropped),
        items=ids,
        users={part: len(made.members[part]) for part in SPLITS},
        clicks=matrices.counts,
        dropped=made.dropped,
        ratings={},
    )
