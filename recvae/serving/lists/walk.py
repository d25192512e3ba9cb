"""From histories to lists, part by part: a folder that appears whole, and work that goes on where it was stopped.

While the work is under way its folder is hidden beside ``out`` (``.OUT.next``); it takes the place of ``out`` when the
last part is finished. A part's lists are written under a temporary name, flushed and renamed, and then named in the
ledger, so that whatever ends the process, what the ledger names is whole.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.streams import Progress
from recvae.arguments import path_of, whole_number
from recvae.errors import DataError, InputError, WorkError, listed
from recvae.files import Document, JsonObject, refuse_existing, whole_file, writing
from recvae.files.swap import (
    clear_inside,
    clear_replaced,
    failure,
    make_folders,
    next_of,
    put,
    refuse_inputs,
    remove,
    sync,
    target,
)
from recvae.serving.lists import ordered
from recvae.serving.lists.asked import Asked, Columns, Counts
from recvae.serving.lists.batch import Lister
from recvae.serving.lists.ledger import LEDGER, Entry, Ledger, facts, settings_of
from recvae.serving.lists.parts import USERS, Part, find_parts, histories, opened
from recvae.serving.lists.users import Scanned, scan
from recvae.serving.model import Model

if TYPE_CHECKING:
    import pyarrow as pa

EXPLAINED = 128  # users at a time with reasons, which take longer
PLACES = 1 << 20  # of the lists of a batch
SORTED = "_sorted"


@dataclass(frozen=True)
class Written:
    """The outcome: the folder, its parts, those that an earlier call had finished, and the numbers of all parts."""

    folder: Path
    parts: int
    kept: int
    counts: Counts


def write_lists(
    model: Model,
    source: str | Path,
    out: str | Path,
    k: int = 10,
    *,
    user_column: str = "user",
    item_column: str = "item",
    rating_column: str | None = None,
    condition_columns: Sequence[str] = (),
    wide: bool = False,
    sort: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    version: str = "",
    arithmetic: Document | None = None,
    progress: Progress | None = None,
    **rules: Any,
) -> Written:
    """Write the ``k`` best items of every user of ``source``, Parquet or CSV files of any size, into a folder.

    ``source``: a folder whose files are its parts, or one file. Its rows are long, a user and an item each, and all
    rows of a user are in one part; or it is Parquet with a row for each user, whose item column is a list. Each part
    becomes a file of lists of the same name in ``out``, Parquet or CSV as it was, with the columns user, rank, item and
    score; ``wide`` lists have a row for each user and the list columns items and scores. Memory holds the model and a
    few thousand users. ``rating_column``: for a model of ratings. ``condition_columns``: columns with names of
    conditions, or with values of a user's attribute of the column's name. ``rules``: the other arguments of
    :meth:`Recommender.recommend`, for all users, and ``each``, rules that differ by user
    (:class:`recvae.serving.lists.asked.UserTable`).

    ``out`` appears when every part is finished. Lists that are there are refused, unless ``overwrite`` replaces them in
    the end. ``resume`` goes on with work that was stopped: finished parts are kept, and the others come out with the
    same bytes as without the stop. For that ``version`` names the model's weights, and ``arithmetic`` the device, the
    number of threads and the like. ``sort`` first sorts the rows by user on the disk, for users whose rows are in
    several parts. ``progress(what, done, total)`` is called as the work goes on.

    Raises :class:`InputError` for files, columns and options that cannot be used, :class:`DataError` for a part that is
    damaged or of which the model knows no item, and :class:`WorkError` where a file cannot be written.
    """
    columns = Columns(user_column, item_column, rating_column, tuple(condition_columns))
    asked = Asked(min(whole_number("k", k, least=1), len(model.items)), wide=wide, **rules)
    place, given = path_of(out), path_of(source)
    if resume and not version:
        raise InputError("Lists are resumed with the model that they were begun with: name its weights with version.")
    refuse_inputs(place, [given])
    if given.is_dir() and given.resolve() in (place.resolve(), *place.resolve().parents):
        raise InputError(f"{place} is in {given}, which is read. Write to another place.")
    with writing(place):
        parts = find_parts(given)
        for flat in sorted({part.flat for part in parts}):
            Lister(model, asked, columns, flat=flat).try_once()
        sources = [{"file": part.path.name, **facts(part.path)} for part in parts] if sort else None
        settings = settings_of(asked, columns, {"model": version, **(arithmetic or {}), "sort": sort})
        work = _Work(model, asked, columns, place, settings, sources)
        done = work.begin(parts, resume=resume, overwrite=overwrite)
        if done is not None:
            return done
        with work.kept_if_begun():
            return work.run(parts, progress or _silent)


def _silent(*_: object) -> None:
    """Say nothing."""


class _Work:
    """The lists of one folder under way, in their hidden folder."""

    def __init__(
        self,
        model: Model,
        asked: Asked,
        columns: Columns,
        place: Path,
        settings: JsonObject,
        sources: Sequence[Document] | None,
    ) -> None:
        self.model, self.asked, self.columns, self.place = model, asked, columns, place
        self.folder = next_of(place)
        self.ledger = Ledger(self.folder, settings, sources)

    def begin(self, parts: Sequence[Part], *, resume: bool, overwrite: bool) -> Written | None:
        """Make the hidden folder, or take the one that was left; return the outcome where all lists are there already.

        Raises :class:`InputError` where there are lists that may neither be replaced nor be continued.
        """
        refuse_existing(self.place, marker=LEDGER, overwrite=overwrite or resume)
        if not resume:
            if (self.folder / LEDGER).is_file() and not overwrite:
                raise InputError(
                    f"Lists for {self.place} were begun and not finished. Go on with resume=True, or begin anew with "
                    "overwrite=True."
                )
            remove(self.folder)
            return None
        ready, begun = (_read(folder) for folder in (self.place, self.folder))
        if ready is not None:
            if ready.same(self.ledger) and ready.holds(parts):
                clear_replaced(self.place)
                return Written(self.place, len(ready.parts), len(ready.parts), ready.counts())
            if begun is None and not overwrite:
                ready.refuse_others(self.ledger, self.place)
                raise InputError(
                    f"{self.place} has lists that were made from other histories than {parts[0].path.parent} has "
                    "now, or that were altered. Replace them with overwrite=True."
                )
        if begun is not None and (begun.same(self.ledger) or not overwrite):
            begun.refuse_others(self.ledger, self.place)
            self.ledger = begun
            clear_inside(self.folder)
            return None
        remove(self.folder)
        return None

    @contextmanager
    def kept_if_begun(self) -> Iterator[None]:
        """Remove the hidden folder where the body fails before anything is worth keeping."""
        try:
            make_folders(self.folder)
            self.ledger.write()
            yield
        except WorkError as error:  # name the folder that the user named
            raise WorkError(str(error).replace(str(self.folder), str(self.place))) from error
        except OSError as error:
            raise failure(self.place, error) from error
        finally:
            if self.folder.exists() and not self.ledger.parts and not (self.folder / SORTED).exists():
                remove(self.folder)

    def run(self, parts: Sequence[Part], progress: Progress) -> Written:
        """Make the lists of all parts that are not finished, and put the folder in its place."""
        if self.ledger.sources is not None:
            parts = self._sorted(parts, progress)
        scanned = scan(parts, self.columns, progress)
        kept = {part.lists for part in parts if self.ledger.finished(part)}
        for name in {*self.ledger.parts} - kept:
            del self.ledger.parts[name]
            remove(self.folder / name)
        waiting = [found for found in scanned if found.part.lists not in kept]
        total, done = sum(found.users for found in waiting), 0
        for found in waiting:
            for users in self._write(found):
                done += users
                progress("rank users", done, total)
        for path in [*self.folder.iterdir()]:  # sorted parts, and whatever killed writers left
            if path.name != LEDGER and path.name not in self.ledger.parts:
                remove(path)
        sync(self.folder)
        put(self.folder, target(self.place))
        clear_replaced(self.place)
        return Written(self.place, len(parts), len(kept), self.ledger.counts())

    def _sorted(self, parts: Sequence[Part], progress: Progress) -> list[Part]:
        """Return parts with the same rows, sorted by user, in the hidden folder, where they are made if need be."""
        folder = self.folder / SORTED
        if not folder.exists():
            ordered.sort(parts, self.columns, folder, progress)
        suffix = ".csv" if all(part.flat for part in parts) else ".parquet"
        return [Part(part.path, Path(part.lists).with_suffix(suffix).name) for part in find_parts(folder)]

    def _write(self, found: Scanned) -> Iterator[int]:
        """Write the lists of a part; yield the number of users after each batch."""
        part, counts = found.part, Counts()
        source = {"file": part.path.name, **facts(part.path)}
        lister = Lister(self.model, self.asked, self.columns, flat=part.flat)
        users = max(1, min(EXPLAINED if self.asked.reasons else USERS, PLACES // self.asked.k))
        with opened(part, self.columns) as file, whole_file(self.folder / part.lists) as temporary:
            with _writer(temporary, lister) as write_now, _beside(write_now) as write:
                for batch in ordered.in_memory(file, users) if found.mixed else histories(file, users):
                    try:
                        asking = lister.histories(batch)
                        lists = lister.coded_lists(asking)
                    except InputError as error:
                        raise DataError(f"{part.path}: {error}") from error
                    write(lists)
                    counts.add(lister.counts(asking, lists))
                    yield batch.num_rows
            if counts.clicks and counts.unknown == counts.clicks:
                raise DataError(
                    f"{part.path} names no item that the model knows: it has {listed(counts.such_as)}. Use histories "
                    "of the catalogue that it was trained on."
                )
            if {"file": part.path.name, **facts(part.path)} != source:
                raise InputError(f"{part.path} changed while it was read. Go on with resume=True when it is whole.")
        self.ledger.parts[part.lists] = Entry(source, facts(self.folder / part.lists), counts)
        self.ledger.write()


def _read(folder: Path) -> Ledger | None:
    """Return the ledger of a folder, None where it has none."""
    return Ledger.read(folder) if (folder / LEDGER).is_file() else None


@contextmanager
def _beside(write: "Callable[[pa.RecordBatch], object]") -> "Iterator[Callable[[pa.RecordBatch], object]]":
    """Yield a function that writes in a thread, one batch while the next is ranked: Arrow writes without Python's lock.

    Errors of a batch are raised with the next one, or at the end.
    """
    with ThreadPoolExecutor(1) as thread:
        pending: Future[object] | None = None

        def write_beside(lists: "pa.RecordBatch") -> None:
            nonlocal pending
            if pending is not None:
                pending.result()
            pending = thread.submit(write, lists)

        yield write_beside
        if pending is not None:
            pending.result()


@contextmanager
def _writer(path: Path, lister: Lister) -> "Iterator[Callable[[pa.RecordBatch], object]]":
    """Yield a function that appends a batch of lists to a new file."""
    if lister.flat:
        import pyarrow.csv as pc

        with pc.CSVWriter(path, lister.schema) as text:
            yield lambda lists: text.write_batch(lists.cast(lister.schema))
    else:
        import pyarrow.parquet as pq

        # Without Arrow's own schema every reader sees plain text where dictionaries were written. Scores are
        # all different: a dictionary of them, and statistics of what is not sorted, only take time.
        repeated = ["user", "rank", "item", "items.list.element"]
        with pq.ParquetWriter(
            path, lister.coded_schema, store_schema=False, use_dictionary=repeated, write_statistics=["user"]
        ) as parquet:
            yield parquet.write_batch
