"""Rows of users that do not stand together: one part put in order in memory, or all parts on disk with DuckDB."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.streams import Progress
from recvae.errors import InputError, RecvaeError, WorkError
from recvae.files import whole_folder, write_json
from recvae.serving.lists.arrays import as_text
from recvae.serving.lists.asked import Columns
from recvae.serving.lists.parts import ROWS, USERS, Opened, Part, grouped, opened, run_starts

if TYPE_CHECKING:
    import pyarrow as pa

PART_ROWS = 1 << 22  # rows of a sorted part, at least: a user's rows stay together
MEMORY = "300MB"  # that DuckDB may use; what does not fit goes to the disk
MARKER = "_sorted.json"


def in_memory(part: Opened, users: int = USERS) -> "Iterator[pa.RecordBatch]":
    """Yield a part of long rows as :func:`recvae.serving.lists.parts.histories` does, users as they first appear."""
    import pyarrow as pa

    columns = part.columns
    pieces = [_coded(piece) for piece in part.pieces(columns.names(), ROWS)]
    rows = pa.Table.from_batches(pieces).unify_dictionaries().combine_chunks()
    user = rows.column(columns.user).combine_chunks()
    codes = user.indices if pa.types.is_dictionary(user.type) else user.dictionary_encode().indices
    order = np.argsort(codes.to_numpy(zero_copy_only=False), kind="stable")  # codes are in order of appearance
    yield from grouped(iter(rows.take(pa.array(order)).combine_chunks().to_batches()), columns, users)


def _coded(piece: "pa.RecordBatch") -> "pa.RecordBatch":
    """Return rows with every column of text as a dictionary, which takes 4 bytes a row."""
    import pyarrow as pa

    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    columns = [
        column.dictionary_encode() if any(is_text(column.type) for is_text in text) else column
        for column in piece.columns
    ]
    return pa.record_batch(columns, names=piece.schema.names)


def sort(parts: Sequence[Part], columns: Columns, folder: Path, progress: Progress | None = None) -> None:
    """Write the rows of all parts, sorted by user, as new parts into ``folder``, whole or not at all.

    The rows of a user keep their order. Raises :class:`InputError` without DuckDB and for a part with a row for each
    user, and :class:`WorkError` where the disk is too small.
    """
    try:
        import duckdb
    except ImportError as error:
        raise InputError(
            "Sorting needs DuckDB. Install it with: pip install 'recvae[large]', or sort the rows by user elsewhere."
        ) from error
    import pyarrow as pa

    fields = [("user", pa.string()), ("place", pa.int64()), *((f"c{n}", kind) for n, _, kind in _others(columns))]
    named = ", ".join(f"c{n}" for n, _, _ in _others(columns))
    failed: list[RecvaeError] = []
    with whole_folder(folder, marker=MARKER, overwrite=True) as temporary:
        spill, whole = temporary / "spill", temporary / "whole"
        rows = pa.RecordBatchReader.from_batches(pa.schema(fields), _rows(parts, columns, failed, progress))
        target = str(whole).replace("'", "''")
        with duckdb.connect(config={"memory_limit": MEMORY, "temp_directory": str(spill)}) as connection:
            try:
                connection.register("rows", rows)
                connection.execute(
                    f"COPY (SELECT user, {named} FROM rows ORDER BY user, place) TO '{target}' (FORMAT parquet)"
                )
            except duckdb.Error as error:
                if failed:
                    raise failed[0] from error
                reason = " ".join(str(error).split())[:300]
                raise WorkError(
                    f"The rows could not be sorted in {folder.parent} ({reason}). Free some space there."
                ) from error
        _split(whole, columns, temporary)
        whole.unlink()
        shutil.rmtree(spill, ignore_errors=True)
        write_json(temporary / MARKER, {})


def _others(columns: Columns) -> "list[tuple[int, str, pa.DataType]]":
    """Return number, name and type of each column but the user's, as they are sorted."""
    import pyarrow as pa

    numbered = [*enumerate(columns.names())][1:]
    return [(n, name, pa.float64() if name == columns.rating else pa.string()) for n, name in numbered]


def _rows(
    parts: Sequence[Part], columns: Columns, failed: list[RecvaeError], progress: Progress | None
) -> "Iterator[pa.RecordBatch]":
    """Yield the rows of all parts in one form, numbered; an error is kept, for DuckDB raises another in its place."""
    import pyarrow as pa

    done = 0
    names = ["user", "place", *(f"c{n}" for n, _, _ in _others(columns))]
    try:
        for number, part in enumerate(parts):
            with opened(part, columns) as file:
                if file.of_users:
                    raise InputError(f"{part.path} has a row for each user, which is not sorted: leave sort out.")
                for piece in file.pieces(columns.names(), ROWS):
                    places = pa.array(np.arange(done, done + piece.num_rows))
                    values = [
                        piece.column(name).cast(kind, safe=False)
                        if name == columns.rating
                        else as_text(piece.column(name), name)
                        for _, name, kind in _others(columns)
                    ]
                    users = as_text(piece.column(columns.user), columns.user)
                    yield pa.record_batch([users, places, *values], names=names)
                    done += piece.num_rows
            if progress is not None:
                progress("sort by user", number + 1, len(parts))
    except RecvaeError as error:
        failed.append(error)
        raise


def _split(whole: Path, columns: Columns, folder: Path) -> None:
    """Write a file of sorted rows as parts of :data:`PART_ROWS` rows and a few more; no user is in two of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = columns.names()
    schema = pa.schema([(names[0], pa.string()), *((name, kind) for _, name, kind in _others(columns))])
    number, written, last = 0, 0, None
    with pq.ParquetFile(whole, buffer_size=1 << 20, pre_buffer=False) as rows:
        writer = pq.ParquetWriter(folder / f"part-{number:05}.parquet", schema)
        try:
            for piece in rows.iter_batches(ROWS, use_threads=False):
                batch = pa.record_batch(piece.columns, names=names).cast(schema)
                if written >= PART_ROWS:
                    starts = run_starts(batch.column(0)).tolist()
                    if batch.column(0)[0].as_py() == last:
                        starts = [*starts[1:], batch.num_rows]
                    writer.write_batch(batch.slice(0, starts[0]))
                    batch = batch.slice(starts[0])
                    if batch.num_rows:
                        writer.close()
                        number, written = number + 1, 0
                        writer = pq.ParquetWriter(folder / f"part-{number:05}.parquet", schema)
                if batch.num_rows:
                    writer.write_batch(batch)
                    written, last = written + batch.num_rows, batch.column(0)[batch.num_rows - 1].as_py()
        finally:
            writer.close()
