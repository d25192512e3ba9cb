"""The parts of a folder of histories, and their rows, piece by piece, as record batches with a row for each user.

A part is a Parquet file, or separated text (CSV, TSV), packed or not. Its rows are long, a user and an item each, or it
is Parquet with a row for each user and a list column of items. Memory holds one piece of a part, whatever its size.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_prep.columns import one_line
from data_prep.kinds import packing
from data_prep.readers import checked_head, guess_separator
from data_prep.streams import ByteSource
from recvae.errors import DataError, InputError
from recvae.frames.ids import Columns as Wanted
from recvae.frames.ids import check_columns
from recvae.serving.lists.arrays import is_list
from recvae.serving.lists.asked import Columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.csv as pc

USERS = 8192  # users in a batch
ENTRIES = 1 << 20  # items of histories in a batch: the batch of one user may have more
ROWS = 1 << 18  # long rows that are read at a time
BLOCK = 1 << 22  # bytes of text that are read at a time

_PACKED = r"(\.(gz|bz2|zst|zstd))?"
_PARQUET, _TEXT = re.compile(r"(.+)\.(parquet|pq)"), re.compile(rf"(.+)\.(csv|tsv|tab|txt){_PACKED}")


@dataclass(frozen=True)
class Part:
    """A file of histories, and the name of the file of its lists, which ends in .parquet or .csv."""

    path: Path
    lists: str

    @property
    def flat(self) -> bool:
        """Whether the lists are CSV, which has no list columns."""
        return self.lists.endswith(".csv")


def find_parts(source: Path) -> list[Part]:
    """Return the parts of a folder by name, or the one part that a file is.

    Names that begin with a dot or an underscore are passed over, as Spark and Arrow do. Raises :class:`InputError`
    where there is nothing, where there is anything else than parts, and where two parts would have one file of lists.
    """
    if not source.exists():
        raise InputError(f"There is no file or folder {source}. Check the path.")
    if not source.is_dir() and not source.is_file():
        raise InputError(f"{source} can be read once only, and parts are read twice: write it to a file.")
    if not source.is_dir():
        parquet = checked_head(ByteSource(source)).startswith(b"PAR1")
        match = (_PARQUET if parquet else _TEXT).fullmatch(source.name)
        stem = match[1] if match else source.stem
        return [Part(source, f"{stem}.{'parquet' if parquet else 'csv'}")]
    found: dict[str, Part] = {}
    for path in sorted(source.iterdir()):
        if path.name.startswith((".", "_")):
            continue
        parquet_name, text_name = _PARQUET.fullmatch(path.name), _TEXT.fullmatch(path.name)
        match = parquet_name or text_name
        if match is None or not path.is_file():
            kind = "a folder" if path.is_dir() else "neither Parquet nor CSV by its name"
            raise InputError(
                f"{path} is {kind}. The parts of --histories DIR are the files of one folder, which end in .parquet, "
                ".csv or .tsv, text also in .gz, .bz2 or .zst: move everything else away."
            )
        before = found.get(match[1])
        if before is not None:
            raise InputError(
                f"{before.path} and {path.name} would have their lists in files of one name. Keep one of the two, or "
                "rename one."
            )
        found[match[1]] = Part(path, f"{match[1]}.{'parquet' if parquet_name else 'csv'}")
    if not found:
        raise InputError(f"{source} is an empty folder: it has no part that ends in .parquet or .csv.")
    return [*found.values()]


class Opened:
    """A part that is open: its form, and its rows."""

    def __init__(self, part: Part, columns: Columns, separator: str | None = None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.part, self.columns, self.separator = part, columns, separator
        self.parquet: pq.ParquetFile | None = None
        self.of_users = False  # a row for each user, in place of long rows
        if separator is None:
            with self._damage():
                # Read in small pieces: by default Arrow holds the compressed bytes of a whole row group.
                self.parquet = pq.ParquetFile(part.path, buffer_size=1 << 20, pre_buffer=False)
            schema = self.parquet.schema_arrow
            self._check(schema.names)
            self.of_users = is_list(schema.field(columns.item).type)
            if self.of_users and is_list(schema.field(columns.user).type):
                raise DataError(f"{part.path}: the column '{columns.user}' holds lists; ids are text or whole numbers.")
            return
        with self._damage(), self._text(None) as reader:
            names = reader.schema.names
        self._check(names)
        self.types = {name: pa.float64() if name == columns.rating else pa.string() for name in columns.names()}

    def _check(self, names: Sequence[str]) -> None:
        """Raise :class:`DataError` where a column is missing, or there twice."""
        want = self.columns
        check_columns(self.part.path, Wanted(want.user, want.item, want.rating), names, self.separator)
        for name in want.conditions:
            check_columns(self.part.path, Wanted(want.user, name), names, self.separator)

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Turn Arrow's errors of the body into a sentence."""
        import pyarrow as pa

        path = self.part.path
        try:
            yield
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
            kind = "Parquet file" if self.separator is None else "text file"
            raise DataError(
                f"{path} is a truncated or damaged {kind} ({one_line(error)}). Correct it, or copy it again."
            ) from error

    @contextmanager
    def _text(self, names: Sequence[str] | None) -> "Iterator[pc.CSVStreamingReader]":
        """Yield a reader of some columns, or of all with the types that Arrow sees in the first block."""
        import pyarrow as pa
        import pyarrow.csv as pc

        assert self.separator is not None
        with pa.input_stream(str(self.part.path), compression=self._packing()) as stream:
            convert = pc.ConvertOptions()
            if names is not None:
                types = {name: self.types[name] for name in names}
                convert = pc.ConvertOptions(
                    column_types=types, include_columns=[*names], null_values=[], strings_can_be_null=False
                )
            with pc.open_csv(
                stream,
                read_options=pc.ReadOptions(block_size=BLOCK, use_threads=False),
                parse_options=pc.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                convert_options=convert,
            ) as reader:
                yield reader

    def _packing(self) -> str | None:
        with self.part.path.open("rb") as file:
            how = packing(file.read(16))
        if how == "xz":
            raise InputError(f"{self.part.path} is packed with xz, which is not read by parts: unpack it, or use zstd.")
        return {"bzip2": "bz2"}.get(how or "", how)

    def pieces(self, names: Sequence[str], rows: int) -> "Iterator[pa.RecordBatch]":
        """Yield some columns, at most about ``rows`` rows at a time; raise :class:`DataError` where one is damaged.

        Also where a user is missing.
        """
        done = 0
        with self._damage():
            for piece in self._pieces(names, rows):
                users = piece.column(self.columns.user) if self.columns.user in names else None
                if users is not None and users.null_count:
                    row = done + int(users.is_null().to_numpy(zero_copy_only=False).argmax()) + 1
                    raise DataError(
                        f"{self.part.path}, row {row:,} (header not counted): the id in column "
                        f"'{self.columns.user}' is missing. Correct or remove that row."
                    )
                done += piece.num_rows
                yield piece

    def _pieces(self, names: Sequence[str], rows: int) -> "Iterator[pa.RecordBatch]":
        if self.parquet is not None:
            yield from self.parquet.iter_batches(rows, columns=[*names], use_threads=False)
            return
        with self._text(names) as reader:
            yield from reader

    def rows_of_users(self) -> int:
        """Return how many rows with a list each to read at a time, so that they hold about :data:`ENTRIES` items."""
        assert self.parquet is not None
        about = self.parquet.metadata
        paths = [about.schema.column(leaf).path for leaf in range(about.num_columns)]
        leaves = [leaf for leaf, path in enumerate(paths) if path.startswith(f"{self.columns.item}.")]
        most = 1.0
        for group in range(about.num_row_groups):
            group_about = about.row_group(group)
            values = sum(group_about.column(leaf).num_values for leaf in leaves)
            most = max(most, values / max(1, group_about.num_rows))
        return max(1, min(USERS, int(ENTRIES / most)))


@contextmanager
def opened(part: Part, columns: Columns) -> Iterator[Opened]:
    """Yield a part that is open.

    Raises :class:`DataError` where it is truncated, of another kind or without one of the columns.
    """
    head = checked_head(ByteSource(part.path))
    separator = None
    if not head.startswith(b"PAR1"):
        separator = guess_separator(head, ByteSource(part.path).name)
        if len(separator) > 1:
            raise InputError(f"{part.path} is separated by '{separator}'; parts are separated by one character.")
    found = Opened(part, columns, separator)
    try:
        yield found
    finally:
        if found.parquet is not None:
            found.parquet.close()


def histories(part: Opened, users: int = USERS) -> "Iterator[pa.RecordBatch]":
    """Yield a part's histories, at most ``users`` users at a time, whose rows stand together.

    A user whose rows do not is several users here; :mod:`recvae.serving.lists.users` finds such parts before.
    """
    names = part.columns.names()
    if part.of_users:
        for piece in part.pieces(names, min(users, part.rows_of_users())):
            yield from _bounded(piece, part.columns)
        return
    yield from grouped(part.pieces(names, ROWS), part.columns, users)


def _bounded(piece: "pa.RecordBatch", columns: Columns) -> "Iterator[pa.RecordBatch]":
    """Yield a batch with a row for each user in slices of at most about :data:`ENTRIES` items."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(piece.column(columns.item)).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    start = 0
    while start < piece.num_rows:
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + ENTRIES, side="right")))
        yield piece.slice(start, stop - start)
        start = stop


def grouped(pieces: "Iterator[pa.RecordBatch]", columns: Columns, users: int = USERS) -> "Iterator[pa.RecordBatch]":
    """Yield long rows as record batches with a row for each user, at most ``users`` at a time.

    A batch ends where the rows say, and not where a piece does: the same rows make the same batches.
    """
    held: list[pa.RecordBatch] = []
    for piece in pieces:
        if piece.num_rows:
            rows = _joined([*held, piece])
            starts = run_starts(rows.column(columns.user))
            done = 0
            for start, stop in _cuts(
                starts, users, last=False
            ):  # the rows of the last user may go on in the next piece
                yield _batch(rows, starts[start : stop + 1], columns)
                done = int(starts[stop])
            held = [rows.slice(done)]
    if held:
        bounds = np.append(run_starts(held[0].column(columns.user)), held[0].num_rows)
        for start, stop in _cuts(bounds, users, last=True):
            yield _batch(held[0], bounds[start : stop + 1], columns)


def _joined(held: "list[pa.RecordBatch]") -> "pa.RecordBatch":
    """Return record batches, each with rows, as one."""
    import pyarrow as pa

    return held[0] if len(held) == 1 else pa.Table.from_batches(held).combine_chunks().to_batches()[0]


def run_starts(users: "pa.Array") -> NDArray[np.int64]:
    """Return the rows whose user is another than that of the row before, int64 (n,); the first row is one of them."""
    import pyarrow as pa

    if not (pa.types.is_integer(users.type) or pa.types.is_dictionary(users.type)):
        users = users.dictionary_encode()
    values = (users.indices if pa.types.is_dictionary(users.type) else users).to_numpy(zero_copy_only=False)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate((np.zeros(min(1, len(values)), np.int64), changes))


def _cuts(bounds: NDArray[np.int64], users: int, *, last: bool) -> Iterator[tuple[int, int]]:
    """Yield ranges of users, of at most ``users`` and about :data:`ENTRIES` rows; ``bounds``: where their rows begin.

    The rows of the last user end where ``bounds`` do. Unless these are the ``last`` users, a range that more users may
    join is left out.
    """
    start, n = 0, len(bounds) - 1
    while start < n:
        fit = int(np.searchsorted(bounds, bounds[start] + ENTRIES, side="right")) - 1
        stop = max(start + 1, min(start + users, fit, n))
        if stop == n and stop - start < users and not last:
            return
        yield start, stop
        start = stop


def _batch(rows: "pa.RecordBatch", bounds: NDArray[np.int64], columns: Columns) -> "pa.RecordBatch":
    """Return consecutive users as a batch with a row for each; ``bounds``: where their rows begin, int64 (n + 1,)."""
    import pyarrow as pa

    first, end = int(bounds[0]), int(bounds[-1])
    part, offsets = rows.slice(first, end - first), pa.array((bounds - first).astype(np.int32))
    names = columns.names()
    users = part.column(columns.user).take(offsets[:-1])
    lists = [pa.ListArray.from_arrays(offsets, part.column(name)) for name in names[1:]]
    return pa.record_batch([users, *lists], names=names)
