"""Data frames of any library, read once, and given back in the kind that they came in.

A frame is anything with Arrow's C stream interface (``__arrow_c_stream__``): a polars or pandas DataFrame, a
pyarrow.Table, a DuckDB relation, a stream of record batches. No library of frames is imported here: a caller who has a
frame of pandas or polars has imported it.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from recvae.arguments import Frame, is_frame, need_packages, shown
from recvae.errors import DataError, InputError
from recvae.frames.ids import row_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    import pyarrow as pa

LABEL = "the data frame"


class Table:
    """The columns of one frame. A frame that can be read once, such as a stream of batches, is read here.

    ``names``: the names of the columns, in order. Raises :class:`InputError` for anything that is no frame, and for a
    frame that cannot be given to Arrow.
    """

    def __init__(self, frame: "Frame | Table", label: str = LABEL) -> None:
        self.label = label
        self.given: Frame = frame.given if isinstance(frame, Table) else frame
        self._of_pandas = _is_of("pandas", self.given)  # read column by column: Arrow may have no type for the others
        self._data: pd.DataFrame  # or an Arrow table
        if isinstance(frame, Table):
            self._data = frame._data
        else:
            self._data = frame if self._of_pandas else _in_arrow(frame)
        names = self._data.columns if self._of_pandas else self._data.column_names
        self.names = [str(name) for name in names]

    def columns(self, names: Sequence[str]) -> "pa.Table":
        """Return some columns, each of which there is once: text as large_string, and nothing dictionary-encoded.

        A dictionary (pandas and polars call such a column categorical) may have values of no row, or one value twice.
        Raises :class:`DataError` for a column of pandas that no column of Arrow can hold.
        """
        import pyarrow as pa

        if self._of_pandas:
            place = {name: self.names.index(name) for name in names}
            table = pa.table({name: _of_series(self._data.iloc[:, at], self.label, name) for name, at in place.items()})
        else:
            table = self._data.select(list(names))
        return pa.table({name: _plain(table[name]) for name in names})

    def like(self, table: "pa.Table") -> Frame:
        """Return an Arrow table as a frame of this one's kind: of pandas, of polars, and else the table itself."""
        if self._of_pandas:
            return table.to_pandas()  # type: ignore[no-any-return]  # pandas comes without types
        if _is_of("polars", self.given):
            kind: Callable[[pa.Table], Frame] = type(self.given)
            return kind(table)
        return table  # type: ignore[no-any-return]  # pyarrow comes without types


def _is_of(library: str, frame: object) -> bool:
    """Return whether an object is a DataFrame of a library, which is then imported already."""
    module = sys.modules.get(library)
    return isinstance(frame, getattr(module, "DataFrame", ()))


def _in_arrow(frame: Frame) -> "pa.Table":
    """Return a frame as an Arrow table."""
    need_packages("Reading a data frame", "pyarrow", install="pyarrow")
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if not is_frame(frame):
        hint = " Call its collect() first." if hasattr(frame, "collect") else ""
        raise InputError(
            "Clicks are read from a file or a data frame (of pandas, polars, pyarrow or another library with Arrow's C "
            f"stream interface), not a {type(frame).__name__}.{hint}"
        )
    try:
        return pa.table(frame)
    except Exception as error:  # the library of the frame raises errors of its own
        raise InputError(
            f"The {type(frame).__name__} cannot be read as a table of Arrow ({' '.join(str(error).split())[:200]}). "
            "Give a data frame, with columns of text or numbers."
        ) from error


def _plain(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Return a column without dictionary encoding, and text in the one type that every library reads."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        kind = column.type.value_type
        chunks = [_plain(pa.chunked_array([chunk.dictionary])).take(chunk.indices) for chunk in column.chunks]
        column = pa.chunked_array([piece for chunk in chunks for piece in chunk.chunks], type=None if chunks else kind)
    if pa.types.is_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column


def _of_series(series: "pd.Series", label: str, name: str) -> "pa.Array":
    """Turn one pandas column into an Arrow array; a column that mixes texts and numbers becomes text."""
    import pyarrow as pa

    try:
        try:
            column = pa.array(series, from_pandas=True)
            if not pa.types.is_binary(column.type) or not any(isinstance(value, str) for value in series):
                return column  # Arrow makes one column of text and of bytes
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            pass
        values = [None if missing else value for value, missing in zip(series, series.isna(), strict=True)]
        return pa.array(_as_texts(values, label, name), type=pa.string())
    except ValueError as error:  # a lone surrogate, or a number of thousands of digits
        if isinstance(error, DataError):
            raise
        raise DataError(f"Column '{name}' of {label} holds text that is not valid Unicode, or is too long.") from error


def _as_texts(values: "Iterable[object]", label: str, name: str) -> list[str | None]:
    """Return values of several types as text; raise :class:`DataError` where two values would become one text."""
    found: dict[str, object] = {}
    texts: list[str | None] = []
    for row, value in enumerate(values, start=1):
        text = None if value is None else value.decode("utf-8") if isinstance(value, bytes) else str(value)
        texts.append(text)
        if text is None:
            continue
        other = found.setdefault(text, value)
        if other is not value and other != value:
            raise row_error(
                label,
                row,
                f"column '{name}' holds {shown(text)} both as {type(other).__name__} and as {type(value).__name__}, "
                "which would become one id.",
            )
    return texts
