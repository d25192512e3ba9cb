"""Small UTF-8 CSV tables of a dataset folder: quoted where needed, so that any id and title comes back as it was."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from recvae.errors import DataError, FormatError

# csv.writer leaves a bare carriage return unquoted, and csv.reader then takes it for the end of the row.
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows; raise :class:`DataError` where a text is not valid Unicode."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(header) + "\n")
            file.writelines(",".join(map(_quoted, row)) + "\n" for row in rows)
    except UnicodeEncodeError as error:
        raise DataError(f"{error.object!r} is not valid Unicode and cannot be written to {path.name}.") from error


def read_table(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Read the rows below ``header``; raise :class:`FormatError` where the file is missing or of another form."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except FileNotFoundError as error:
        raise FormatError(f"{path} is missing. Prepare the dataset again.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path} cannot be read ({error}). Prepare the dataset again.") from error
    if not rows or rows[0] != list(header):
        raise FormatError(f"{path} does not begin with the header {','.join(header)}. Prepare the dataset again.")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise FormatError(
                f"{path}, row {number:,}: {len(row)} fields for {len(header)}. Prepare the dataset again."
            )
    return rows[1:]


def _quoted(value: object) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
