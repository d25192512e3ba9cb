"""Readers: CSV, TSV and other separated text, Parquet and data frames -> :class:`Interactions`, in file order.

Ids are kept as written: leading zeros, spaces and quotes are part of an id. Columns are read by Arrow, ids
straight into int32 codes with a dictionary of the distinct ids, so that 20 million rows take a second or two and less
than a gigabyte. Text follows the quoting rules of RFC 4180, except that separators of several characters (``::``) have
no quoting. Rows are numbered from 1 in messages, any header not counted.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.columns import Rows, from_table, interactions, one_line, rows_of
from data_prep.interactions import Interactions
from data_prep.kinds import check_kind
from data_prep.plain import from_rows
from data_prep.separated import from_text, text_columns, text_pieces
from data_prep.spool import rereadable
from data_prep.streams import ByteSource, Progress
from data_prep.titles import read_rows
from recvae.arguments import Frame, need_packages
from recvae.errors import DataError, InputError, did_you_mean
from recvae.frames.ids import Columns, Origin, check_columns, coded_ids, whole_ids
from recvae.frames.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_PARQUET = b"PAR1"
_ROWS = 1 << 20


def read_interactions(
    source: str | Path | ByteSource | Frame | Table,
    user_column: str,
    item_column: str,
    *,
    rating_column: str | None = None,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Read clicks from a text or Parquet file, or a data frame of pandas, polars, pyarrow or the like.

    Files may be compressed (gzip, bzip2, xz, zstd, recognised by their content) and may be pipes; ``-`` is standard
    input.

    ``columns`` names all columns of a text file without a header. ``separator`` is guessed from the file where None: a
    comma, else a tab, ``::``, a semicolon or a bar, whichever the first line holds. Times may be numbers or timestamps;
    timestamps become int64 microseconds. Raises :class:`InputError` for a missing file and :class:`DataError`, naming
    the file and the row or column, for data that cannot be used.
    """
    want = Columns(user_column, item_column, rating_column, time_column)
    if not isinstance(source, str | Path | ByteSource):
        if columns is not None or separator is not None:
            raise InputError("Column names and a separator are for text files; a data frame has its own.")
        return _from_frame(Table(source), want)
    with rereadable(source, progress) as file:
        if not _has_arrow():
            head = checked_head(file)
            if head.startswith(_PARQUET):
                _need_arrow(file)
            if columns is not None or time_column is not None:
                need_packages("Reading times, or a file without a header,", "pyarrow", install="pyarrow")
            return from_rows(file, want, separator or guess_separator(head, file.name))
        rows = read_rows_of(file, want, columns=columns, separator=separator, progress=progress)
        if rows is None:
            raise DataError(f"{file} has no rows.")
        return interactions([rows], str(file))


def read_rows_of(
    source: Path | ByteSource,
    want: Columns,
    *,
    columns: Sequence[str] | None,
    separator: str | None,
    progress: Progress | None,
) -> Rows | None:
    """Read a text or Parquet file, None where it has no rows; errors as :func:`read_interactions`."""
    file = source if isinstance(source, ByteSource) else ByteSource(source)
    head = checked_head(file)
    if not head.startswith(_PARQUET):
        return from_text(file, want, columns, separator or guess_separator(head, file.name), progress)
    with _parquet(file) as parquet:
        check_columns(file, want, parquet.schema_arrow.names)
        table = _read_parquet(file, parquet, want.names())
    return rows_of(table, want, Origin(file)) if table.num_rows else None


def read_pieces(
    source: Path, want: Columns, columns: Sequence[str] | None, separator: str | None, progress: Progress | None
) -> Iterator[Rows]:
    """Yield the rows of a text or Parquet file in pieces of about a million; errors as :func:`read_interactions`."""
    import pyarrow as pa

    file = ByteSource(source)
    head = checked_head(file)
    if not head.startswith(_PARQUET):
        yield from text_pieces(file, want, columns, separator or guess_separator(head, file.name), progress)
        return
    with _parquet(file) as parquet:
        check_columns(file, want, parquet.schema_arrow.names)
        before = 0
        try:
            for batch in parquet.iter_batches(_ROWS, columns=want.names()):
                if not batch.num_rows:
                    continue
                yield rows_of(pa.Table.from_batches([batch]), want, Origin(file, before))
                before += batch.num_rows
                if progress is not None:
                    size = source.stat().st_size
                    progress(f"read {file.name}", size * before // parquet.metadata.num_rows, size)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise _damaged(file, error) from error


def column_names(
    source: str | Path | ByteSource | Frame | Table,
    *,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
) -> list[str]:
    """Return the names of a source's columns; the arguments and errors are those of :func:`read_interactions`."""
    if not isinstance(source, str | Path | ByteSource):
        return Table(source).names
    with rereadable(source) as file:
        head = checked_head(file)
        if head.startswith(_PARQUET):
            with _parquet(file) as parquet:
                return list(parquet.schema_arrow.names)
        if not _has_arrow():
            return next(read_rows(file, separator or guess_separator(head, file.name)))
        return text_columns(file, columns, separator or guess_separator(head, file.name))


def read_ids(source: str | Path | ByteSource, *names: str) -> list[str]:
    """Read ids, each once, in file order: those of a table's column, or of a text file with one id a line.

    The column is the first of ``names`` that there is. Text without any of them in its first row has one id a line and
    no header. Files may be packed, and may be pipes, as in :func:`read_interactions`. Raises :class:`InputError` for a
    missing file and :class:`DataError`, naming the file and the row, for one that is empty or no such table.
    """
    with rereadable(source) as file:
        if checked_head(file).startswith(_PARQUET):
            with _parquet(file) as parquet:
                name = _one_of(file, names, parquet.schema_arrow.names)
                table = _read_parquet(file, parquet, [name])
                if not table.num_rows:
                    raise DataError(f"{file} has no rows.")
                _, ids = coded_ids(table[name], str(file), name)
            return [str(item) for item in ids]
        rows = read_rows(file)
        first = next(rows)
        if any(name in first for name in names) or len(first) > 1:
            place, header = first.index(_one_of(file, names, first)), "header not counted"
        else:
            place, header, rows = 0, "blank lines not counted", chain([first], rows)
        found: dict[str, None] = {}
        for number, row in enumerate(rows, start=1):
            if len(row) != len(first):
                raise DataError(
                    f"{file}: row {number:,} ({header}) has {len(row)} fields, and the first one {len(first)}. "
                    "Is a quote missing around an id?"
                )
            if not row[place]:
                raise DataError(f"{file}: row {number:,} ({header}) has no id.")
            found[row[place]] = None
    if not found:
        raise DataError(f"{file} has a header and no rows.")
    return whole_ids(found)


def _has_arrow() -> bool:
    """Return whether Arrow is installed; a service of exported models has none."""
    return find_spec("pyarrow") is not None


def _one_of(file: ByteSource, names: Sequence[str], columns: Sequence[str]) -> str:
    """Return the first of ``names`` among a file's columns; raise :class:`DataError` where there is none, or twice."""
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise DataError(
            f"{file} has no column '{names[0]}'; it has {', '.join(columns)}.{did_you_mean(names[0], columns)}"
        )
    if columns.count(found) > 1:
        raise DataError(f"{file} has {columns.count(found)} columns named '{found}'. Rename all but one.")
    return found


def guess_separator(head: bytes, name: str) -> str:
    """Guess the separator from a file's first line and its name."""
    line = head.lstrip().split(b"\n", 1)[0]
    if name.endswith((".tsv", ".tab")):
        return "\t"
    for separator in (",", "\t", "::", ";", "|"):
        if separator.encode() in line:
            return separator
    return ","


def checked_head(file: ByteSource) -> bytes:
    """Return a file's first bytes; raise :class:`DataError` for an empty file or one that is not text or Parquet."""
    head = file.head()
    check_kind(file, head)
    return head


def _need_arrow(file: ByteSource) -> None:
    need_packages(f"{file}, a Parquet file,", "pyarrow", install="pyarrow. Or save it as CSV.")


def _parquet(file: ByteSource) -> "pq.ParquetFile":
    _need_arrow(file)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.raw() as raw:
            plain = file.member is None and raw.read(len(_PARQUET)) == _PARQUET
        if not plain:
            return pq.ParquetFile(pa.BufferReader(file.read()))
        return pq.ParquetFile(file.path if file.spooled is None else file.spooled.file)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _damaged(file, error) from error


def _read_parquet(file: ByteSource, parquet: "pq.ParquetFile", columns: Sequence[str]) -> "pa.Table":
    """Return some columns of a Parquet file; raise :class:`DataError` where it is damaged."""
    import pyarrow as pa

    try:
        return parquet.read(columns=list(columns))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: ByteSource, error: Exception) -> DataError:
    return DataError(f"{file} is a truncated or damaged Parquet file ({one_line(error)}). Copy it again.")


def _from_frame(table: Table, want: Columns) -> Interactions:
    check_columns(table.label, want, table.names)
    arrow = table.columns(want.names())
    if not arrow.num_rows:
        raise DataError(f"{table.label[0].upper() + table.label[1:]} has no rows.")
    return from_table(arrow, want, table.label)
