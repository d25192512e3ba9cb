"""Readers: CSV, TSV and other separated text, Parquet and data frames -> :class:`Interactions`, in file order.

Ids are kept as written: leading zeros, spaces and quotes are part of an id. Columns are read by Arrow, ids
straight into int32 codes with a dictionary of the distinct ids, so that 20 million rows take a second or two and less
than a gigabyte. Text follows the quoting rules of RFC 4180, except that separators of several characters (``::``) have
no quoting. Rows are numbered from 1 in messages, any header not counted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from data_prep.columns import Columns, check_columns, from_table, one_line
from data_prep.interactions import Interactions
from data_prep.kinds import check_kind
from data_prep.separated import from_text, text_columns
from data_prep.spool import rereadable
from data_prep.streams import ByteSource, Progress
from recvae.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    Frame: TypeAlias = pd.DataFrame | pa.Table

_PARQUET = b"PAR1"


def read_interactions(
    source: "str | Path | ByteSource | Frame",
    user_column: str,
    item_column: str,
    *,
    rating_column: str | None = None,
    time_column: str | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
    progress: Progress | None = None,
) -> Interactions:
    """Read clicks from a text or Parquet file, a pandas DataFrame or an Arrow table.

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
        return _from_frame(source, want, "the data frame")
    with rereadable(source, progress) as file:
        head = checked_head(file)
        if head.startswith(_PARQUET):
            return _from_parquet(file, want)
        return from_text(file, want, columns, separator or guess_separator(head, file.name), progress)


def column_names(
    source: "str | Path | ByteSource | Frame", *, columns: Sequence[str] | None = None, separator: str | None = None
) -> list[str]:
    """Return the names of a source's columns; the arguments and errors are those of :func:`read_interactions`."""
    if not isinstance(source, str | Path | ByteSource):
        return _frame_names(source)
    with rereadable(source) as file:
        head = checked_head(file)
        if head.startswith(_PARQUET):
            with _parquet(file) as parquet:
                return list(parquet.schema_arrow.names)
        return text_columns(file, columns, separator or guess_separator(head, file.name))


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


def _parquet(file: ByteSource) -> "pq.ParquetFile":
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


def _from_parquet(file: ByteSource, want: Columns) -> Interactions:
    import pyarrow as pa

    with _parquet(file) as parquet:
        check_columns(file, want, parquet.schema_arrow.names)
        try:
            table = parquet.read(columns=want.names())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise _damaged(file, error) from error
    if not table.num_rows:
        raise DataError(f"{file} has no rows.")
    return from_table(table, want, str(file))


def _damaged(file: ByteSource, error: Exception) -> DataError:
    return DataError(f"{file} is a truncated or damaged Parquet file ({one_line(error)}). Copy it again.")


def _frame_names(frame: "Frame") -> list[str]:
    names = getattr(frame, "column_names", None)  # Arrow's
    if names is None and hasattr(frame, "iloc"):
        names = getattr(frame, "columns", None)  # pandas'
    if names is None:
        kind = type(frame).__name__
        raise InputError(f"Interactions are read from a file, a pandas DataFrame or an Arrow table, not a {kind}.")
    return [str(name) for name in names]


def _from_frame(frame: "Frame", want: Columns, label: str) -> Interactions:
    import pyarrow as pa

    names = _frame_names(frame)
    check_columns(label, want, names)
    if isinstance(frame, pa.Table):
        table = frame
    else:
        table = pa.table({name: _series(frame.iloc[:, names.index(name)], label, name) for name in want.names()})
    if not table.num_rows:
        raise DataError(f"{label[0].upper() + label[1:]} has no rows.")
    return from_table(table, want, label)


def _series(series: "pd.Series", label: str, name: str) -> "pa.Array":
    """Turn one pandas column into an Arrow array; a column that mixes texts and numbers becomes text."""
    import pyarrow as pa

    try:
        try:
            return pa.array(series, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            values = [None if missing else str(value) for value, missing in zip(series, series.isna(), strict=True)]
            return pa.array(values, type=pa.string())
    except ValueError as error:  # a lone surrogate, or a number of thousands of digits
        raise DataError(f"Column '{name}' of {label} holds text that is not valid Unicode, or is too long.") from error
