"""Separated text (CSV, TSV, ``::``), read by Arrow; a second reading finds the row at fault in a refused file."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data_prep.columns import Rows, is_number, no_number, one_line, rows_of
from data_prep.kinds import packing
from data_prep.streams import ByteSource, Progress, Separated, Stream
from recvae.errors import DataError, InputError
from recvae.frames.ids import Columns, Origin, check_columns, not_utf8, row_error

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import csv

_BLOCK = 1 << 22
_HEAD = 1 << 20
_PIECE = 1 << 25


class _Text:
    """One separated text file: how to open and parse it with Arrow."""

    def __init__(self, file: ByteSource, columns: Sequence[str] | None, separator: str) -> None:
        if not isinstance(separator, str) or not separator or any(map(_is_no_separator, separator)):
            raise InputError(f"The separator {separator!r} cannot be used.")
        self.file, self.columns, self.separator = file, columns, separator
        self.long = len(separator.encode()) > 1

    def stream(self, stream: Stream) -> Stream:
        """Return a stream for Arrow, in which separators are single bytes."""
        return Separated(stream, self.separator, str(self.file)) if self.long else stream

    def parse_options(self, *, quoted: bool = True) -> "csv.ParseOptions":
        import pyarrow.csv as pc

        return pc.ParseOptions(
            delimiter=Separated.CONTROL.decode() if self.long else self.separator,
            quote_char=False if self.long else '"',
            newlines_in_values=quoted and not self.long,  # a quoted id may hold a line break
        )

    def is_quoted(self) -> bool:
        """Return whether there may be a quote below the first line: a packed file is not searched.

        Without quotes every line is a row, which Arrow finds in half the time and half the memory.
        """
        with self.file.raw() as raw:
            if self.long or self.file.member is not None or packing(raw.read(_HEAD)) is not None:
                return True
            raw.seek(0)
            raw.readline()
            return any(b'"' in piece for piece in iter(partial(raw.read, _HEAD), b""))

    def read_options(self, block: int, **options: object) -> "csv.ReadOptions":
        import pyarrow.csv as pc

        return pc.ReadOptions(column_names=self.columns, block_size=block, **options)

    def first_block(self) -> "pa.Schema":
        """Return the schema that Arrow infers from the first block: the columns' names and likely types."""
        import pyarrow as pa
        import pyarrow.csv as pc

        options = self.parse_options()
        options.invalid_row_handler = lambda row: "skip"  # its error comes later, with the row's number
        with self.file.open() as stream:
            head = self.stream(stream).read(_HEAD)
            if stream.peek(1):
                head = _whole_rows(head, quoted=not self.long)
        if not _is_text(head):
            if self.columns is None and not _is_text(head.split(b"\n", 1)[0]):
                raise not_utf8(self.file, "in the header")
            # Arrow's handler of rows fails on such text. The error comes later, with the row's number.
            head = head.decode(errors="replace").encode()
        # Not with a streaming reader: when abandoned it frees its Python objects in another thread, which aborts the
        # process if the interpreter is ending.
        try:
            table = pc.read_csv(
                pa.BufferReader(head), read_options=self.read_options(_BLOCK, use_threads=False), parse_options=options
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.file} cannot be read as separated text: {one_line(error)}") from error
        return table.schema

    def read(self, types: "dict[str, pa.DataType]", progress: Progress | None = None) -> "pa.Table":
        """Read the columns named in ``types``; Arrow's own exceptions come through."""
        import pyarrow as pa
        import pyarrow.csv as pc

        options = self.parse_options(quoted=self.is_quoted())  # before the file is opened once more
        with self.file.open(progress) as stream:
            return pc.read_csv(
                pa.PythonFile(self.stream(stream), mode="r"),
                read_options=self.read_options(_BLOCK),
                parse_options=options,
                convert_options=_converting(types),
            )

    def pieces(
        self, types: "dict[str, pa.DataType]", progress: Progress | None = None, *, use_threads: bool = True
    ) -> "Iterator[tuple[int, pa.Table]]":
        """Yield the columns named in ``types`` piece by piece, each with the number of rows before it.

        Arrow's error of a row with too few or too many fields has the row's number only without threads.
        """
        import pyarrow as pa
        import pyarrow.csv as pc

        before = 0
        with self.file.open(progress) as stream:
            source = _Ending(self.stream(stream))
            reader = pc.open_csv(
                pa.PythonFile(source, mode="r"),
                read_options=self.read_options(_PIECE, use_threads=use_threads),
                parse_options=self.parse_options(),
                convert_options=_converting(types),
            )
            try:
                for batch in reader:
                    if batch.num_rows:
                        yield before, pa.Table.from_batches([batch])
                    before += batch.num_rows
            finally:
                # Arrow reads ahead in a thread of its own. It has to be at the end of the file before the file is
                # closed, and before the interpreter ends, which would abort the process.
                source.ended = True
                with suppress(pa.ArrowInvalid):
                    for _ in reader:
                        pass


class _Ending:
    """A stream for Arrow that can be told to be at its end."""

    closed = False

    def __init__(self, stream: Stream) -> None:
        self.stream, self.ended = stream, False

    def read(self, n: int = -1) -> bytes:
        return b"" if self.ended else self.stream.read(n)

    def close(self) -> None:
        """Do nothing: the context manager that opened the file closes it."""


def _converting(types: "dict[str, pa.DataType]") -> "csv.ConvertOptions":
    import pyarrow.csv as pc

    return pc.ConvertOptions(column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False)


def _whole_rows(head: bytes, *, quoted: bool) -> bytes:
    """Return the rows that are whole in a file's first bytes; all bytes where no row is whole."""
    end = head.rfind(b"\n") + 1
    while quoted and end and head.count(b'"', 0, end) % 2:  # this line break is part of a quoted value
        end = head.rfind(b"\n", 0, end - 1) + 1
    return head[:end] or head


def _is_no_separator(character: str) -> bool:
    """Return whether a character ends rows, quotes, stands for a long separator here, or is not Unicode."""
    return character in '\n\r\0"' + Separated.CONTROL.decode() or "\ud800" <= character <= "\udfff"


def text_columns(file: ByteSource, columns: Sequence[str] | None, separator: str) -> list[str]:
    """Return the names of a separated file's columns."""
    return list(_Text(file, columns, separator).first_block().names)


def from_text(
    file: ByteSource, want: Columns, columns: Sequence[str] | None, separator: str, progress: Progress | None
) -> Rows | None:
    """Read one separated text file, None where it has no rows; errors as ``data_prep.readers.read_interactions``."""
    import pyarrow as pa

    text, types = _typed(file, want, columns, separator)
    try:
        try:
            table = text.read(types, progress)
        except pa.ArrowInvalid:
            if want.time is None or types[want.time] != pa.int64():
                raise
            types[want.time] = pa.float64()  # times that begin as whole numbers may go on with fractions
            table = text.read(types, progress)
    except pa.ArrowInvalid as error:
        raise _diagnose(text, want, types) or DataError(f"{file} cannot be read: {one_line(error)}") from error
    return rows_of(table, want, Origin(file)) if table.num_rows else None


def text_pieces(
    file: ByteSource, want: Columns, columns: Sequence[str] | None, separator: str, progress: Progress | None
) -> Iterator[Rows]:
    """Yield the rows of one separated text file in pieces; arguments and errors as :func:`from_text`."""
    import pyarrow as pa

    text, types = _typed(file, want, columns, separator)
    done = 0  # rows that are yielded
    try:
        try:
            for before, table in text.pieces(types, progress):
                yield rows_of(table, want, Origin(file, before))
                done = before + table.num_rows
        except pa.ArrowInvalid:
            if want.time is None or types[want.time] != pa.int64():
                raise
            types[want.time] = pa.float64()  # as in from_text
            for before, table in text.pieces(types, progress):
                if before + table.num_rows > done:
                    yield rows_of(table.slice(max(done - before, 0)), want, Origin(file, max(done, before)))
    except pa.ArrowInvalid as error:
        raise _diagnose(text, want, types) or DataError(f"{file} cannot be read: {one_line(error)}") from error


def _typed(
    file: ByteSource, want: Columns, columns: Sequence[str] | None, separator: str
) -> "tuple[_Text, dict[str, pa.DataType]]":
    """Return a file and the types of the columns that are read."""
    import pyarrow as pa

    text = _Text(file, columns, separator)
    schema = text.first_block()
    check_columns(file, want, schema.names, separator)
    code = pa.dictionary(pa.int32(), pa.string())
    types: dict[str, pa.DataType] = {want.user: code, want.item: code}
    if want.rating is not None:
        types[want.rating] = pa.float64()
    if want.time is not None:
        types[want.time] = _time_type(schema.field(want.time).type)
    return text, types


def _diagnose(text: _Text, want: Columns, types: "dict[str, pa.DataType]") -> DataError | None:
    """Read a file that Arrow refused again, without conversions; return the error that names the row at fault."""
    import pyarrow as pa

    raw = pa.dictionary(pa.int32(), pa.binary())
    try:
        for before, table in text.pieces(dict.fromkeys(types, raw), use_threads=False):
            found = _wrong_value(text, want, types, table, before)
            if found is not None:
                return found
    except pa.ArrowInvalid as error:
        ragged = _ragged_row(str(error))
        if ragged is None:
            return None
        row, expected, actual = ragged
        if text.columns is not None:
            return row_error(text.file, row, f"it has {actual} fields, and {expected} columns are named.")
        row -= 1  # Arrow counts the header
        return row_error(text.file, row, f"it has {actual} fields, and the header has {expected}.")
    return None


def _wrong_value(
    text: _Text, want: Columns, types: "dict[str, pa.DataType]", table: "pa.Table", before: int
) -> DataError | None:
    """Return the error for the first value in a piece of a file that cannot be converted."""
    for name in types:
        row = _first_row(table[name], _is_text)
        if row:
            return not_utf8(text.file, f"column '{name}', row {before + row:,}")
    for column, what in ((want.rating, "rating"), (want.time, "time")):
        if column is None:
            continue
        row = _first_row(table[column], _is_time(types[column]))
        if row:
            value = table[column][row - 1].as_py().decode()
            first = before + row == 1 and text.columns is not None
            header = " If it is the header, leave --columns out." if first else ""
            return row_error(text.file, before + row, no_number(what, value, column) + header)
    return None


def _first_row(column: "pa.ChunkedArray", good: Callable[[bytes], bool]) -> int:
    """Return the first row (from 1) of a dictionary column whose value is not ``good``, or 0."""
    start = 0
    for chunk in column.chunks:
        wrong = np.array([not good(value) for value in chunk.dictionary.to_pylist()], dtype=bool)
        if wrong.any():
            rows = np.flatnonzero(wrong[chunk.indices.to_numpy()])
            if rows.size:
                return start + int(rows[0]) + 1
        start += len(chunk)
    return 0


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _ragged_row(message: str) -> tuple[int, int, int] | None:
    match = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _is_time(kind: "pa.DataType") -> Callable[[bytes], bool]:
    import pyarrow as pa

    if not pa.types.is_timestamp(kind):
        return is_number

    def check(value: bytes) -> bool:
        try:
            pa.scalar(value.decode()).cast(kind)
        except pa.ArrowInvalid:
            return False
        return True

    return check


def _time_type(inferred: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_timestamp(inferred) or pa.types.is_date(inferred):
        return pa.timestamp("us", tz=getattr(inferred, "tz", None))
    return pa.int64() if pa.types.is_integer(inferred) else pa.float64()
