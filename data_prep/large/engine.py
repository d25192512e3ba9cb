"""DuckDB, the only module that imports it: clicks with ids as text come in, and come out as numbers, sorted by user.

The clicks are kept in a database file and leave memory where they are more than the limit. Ids become numbers before
anything else is done with them. The number of a click's row over all files stands for the file order.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from data_prep.columns import Rows, one_line
from data_prep.interactions import Codes
from recvae.errors import InputError, WorkError

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("user", "item")
_BATCH = 1 << 20
_PER_THREAD = 1 << 27  # bytes of the limit for each thread: with less, threads wait for memory
_INTEGER = "regexp_full_match(id, '0|-?[1-9][0-9]*')"
# Whole numbers of any length in their order, without arithmetic: by sign and length, then by digits.
_NUMERIC = (
    "CASE WHEN id[1] = '-' THEN -length(id) ELSE length(id) END, CASE WHEN id[1] = '-' THEN '' ELSE id END,"
    " CASE WHEN id[1] = '-' THEN id ELSE '' END DESC"
)


class Engine:
    """A database in ``scratch`` that takes about ``memory`` bytes; :func:`engine` makes one."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._time = ""
        self._made = False

    def add(self, rows: Rows, chosen: npt.NDArray[np.intp], first: int) -> None:
        """Add the ``chosen`` of ``rows``, of which the first has the number ``first`` over all files."""
        import pyarrow as pa

        columns = {
            "user": pa.DictionaryArray.from_arrays(pa.array(rows.user[chosen]), rows.user_ids),
            "item": pa.DictionaryArray.from_arrays(pa.array(rows.item[chosen]), rows.item_ids),
            "number": pa.array(chosen.astype(np.int64) + first),
        }
        if rows.time is not None:
            columns["time"] = pa.array(rows.time[chosen])
        self._make_room("" if rows.time is None else "DOUBLE" if rows.time.dtype == np.float64 else "BIGINT")
        with self._shown("piece", pa.table(columns)):
            self._run("INSERT INTO clicks SELECT * FROM piece")

    def _make_room(self, time: str) -> None:
        """Make the table of clicks, or let its times be fractions from now on."""
        if not self._made:
            self._run(
                f'CREATE TABLE clicks ("user" VARCHAR, item VARCHAR, number BIGINT{", time " * bool(time)}{time})'
            )
            self._made, self._time = True, time
        elif time == "DOUBLE" and self._time == "BIGINT":
            self._run("ALTER TABLE clicks ALTER time TYPE DOUBLE")
            self._time = time

    def encode(self, kind: str, *, whole: bool) -> int:
        """Number the distinct ids of a kind, users in ascending order; return how many there are.

        ``whole``: all are whole numbers written as floats, and lose their ``.0``.
        """
        name = "left(text, length(text) - 2)" if whole else "text"
        self._run(
            f"CREATE TABLE {kind}s_read AS SELECT text, {name} AS id FROM"
            f' (SELECT DISTINCT "{kind}" AS text FROM clicks)'
        )
        order = ""
        if kind == "user":
            (numeric,) = self._row(f"SELECT bool_and({_INTEGER}) FROM users_read")
            order = f"ORDER BY {_NUMERIC}" if numeric else "ORDER BY id"
        self._run(
            f"CREATE TABLE {kind}s AS SELECT text, id, (row_number() OVER ({order}) - 1)::INTEGER AS code"
            f" FROM {kind}s_read"
        )
        self._run(f"DROP TABLE {kind}s_read")
        return int(self._row(f"SELECT count(*) FROM {kind}s")[0])

    def sort(self) -> "Iterator[pa.RecordBatch]":
        """Yield all clicks by user and row: the columns user and item (int32), number (int64), and time if there is."""
        time = ", time" if self._time else ""
        self._run(
            f"CREATE TABLE coded AS SELECT users.code AS u, items.code AS i, number{time} FROM clicks"
            ' JOIN users ON clicks."user" = users.text JOIN items ON clicks.item = items.text'
        )
        self._run("DROP TABLE clicks")
        yield from self._batches(f"SELECT u, i, number{time} FROM coded ORDER BY u, number")
        self._run("DROP TABLE coded")

    def ascending(self, kept: npt.NDArray[np.bool_]) -> Codes:
        """Return the codes of the users that are ``kept``, in ascending order of their ids.

        Users that are not kept must not decide between numeric order and that of texts.
        """
        with self._shown("kept", _numbered(np.flatnonzero(kept))):
            of_kept = "FROM users JOIN kept ON users.code = kept.code"
            (numeric,) = self._row(f"SELECT bool_and({_INTEGER}) {of_kept}")
            if not numeric:
                return np.flatnonzero(kept).astype(np.int32)
            batches = self._batches(f"SELECT users.code {of_kept} ORDER BY {_NUMERIC}")
            return np.concatenate([batch.column(0).to_numpy() for batch in batches])

    def ids(self, kind: str, codes: npt.NDArray[np.integer]) -> Iterator[str]:
        """Yield the ids of ``codes``, in their order."""
        with self._shown("kept", _numbered(codes)):
            for batch in self._batches(f"SELECT id FROM {kind}s JOIN kept ON {kind}s.code = kept.code ORDER BY place"):
                yield from batch.column(0).to_pylist()

    def in_order(self, times: "Iterator[npt.NDArray[np.generic]]", places: Sequence[int]) -> list[Any]:
        """Return the times at some places of all times in ascending order."""
        import pyarrow as pa

        self._run(f"CREATE TABLE times (time {self._time or 'BIGINT'})")
        for some in times:
            with self._shown("piece", pa.table({"time": pa.array(some)})):
                self._run("INSERT INTO times SELECT * FROM piece")
        found = [self._row(f"SELECT time FROM times ORDER BY time LIMIT 1 OFFSET {place}")[0] for place in places]
        self._run("DROP TABLE times")
        return found

    def _batches(self, query: str) -> "Iterator[pa.RecordBatch]":
        with _failures():
            reader = self._connection.sql(query).to_arrow_reader(_BATCH)
        while True:
            with _failures():
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    def _run(self, statement: str) -> None:
        with _failures():
            self._connection.execute(statement)

    def _row(self, query: str) -> tuple[Any, ...]:
        with _failures():
            rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()  # all, or the result stays open
        return rows[0]

    @contextmanager
    def _shown(self, name: str, table: "pa.Table") -> Iterator[None]:
        """Let statements in the body read an Arrow table by name."""
        self._connection.register(name, table)
        try:
            yield
        finally:
            self._connection.unregister(name)


@contextmanager
def engine(scratch: Path, memory: int) -> Iterator[Engine]:
    """Yield an engine whose files are in ``scratch``, and close it.

    Raises :class:`InputError` where DuckDB is missing, and :class:`WorkError` where disk or memory are too small.
    """
    try:
        import duckdb
    except ImportError as error:
        raise InputError(
            "Preparing clicks in limited memory needs DuckDB. Install it with: pip install 'recvae[large]'"
        ) from error
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory >> 20}MiB",
        "temp_directory": str(scratch / "spilled"),
        "preserve_insertion_order": False,  # rows carry their numbers
        "threads": max(1, min(_cores(), memory // _PER_THREAD)),
    }
    with _failures():
        connection = duckdb.connect(str(scratch / "clicks.duckdb"), config=settings)
    try:
        yield Engine(connection)
    finally:
        connection.close()


def _numbered(codes: npt.NDArray[np.integer]) -> "pa.Table":
    """Return codes with their places, as a table for a statement."""
    import pyarrow as pa

    return pa.table({"code": pa.array(codes.astype(np.int32)), "place": pa.array(np.arange(len(codes)))})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _failures() -> Iterator[None]:
    """Raise :class:`WorkError` where the body has too little memory or disk; DuckDB's mistakes of use come through."""
    import duckdb
    import pyarrow as pa

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise WorkError(
            f"The memory or the disk for temporary files is too small ({one_line(error)}). Allow more with --memory, or"
            " name a folder on a larger disk with --temp."
        ) from error
    except (
        duckdb.IOException,
        duckdb.TransactionException,
        duckdb.FatalException,
        pa.ArrowException,
        OSError,
    ) as error:
        raise WorkError(
            f"The temporary files cannot be written or read ({one_line(error)}). Free some space, or name a folder on"
            " another disk with --temp."
        ) from error
