"""The kind of a file by its first bytes: its compression, and an error sentence for each kind that is not read."""

import codecs
import re

from recvae.errors import DataError
from recvae.frames.ids import not_utf8

_PACKINGS = (
    ("gzip", rb"\x1f\x8b"),
    ("bzip2", rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    ("xz", rb"\xfd7zXZ\x00"),
    ("zstd", rb"\x28\xb5\x2f\xfd"),
)
_FOREIGN = (
    ("a zip archive", rb"PK\x03\x04", "Unpack it, or name a known dataset and give it as --source."),
    ("a tar archive", rb".{257}ustar", "Unpack it."),
    ("a 7z archive", rb"7z\xbc\xaf\x27\x1c", "Unpack it."),
    ("a RAR archive", rb"Rar!\x1a", "Unpack it."),
    ("packed with lz4", rb"\x04\x22\x4d\x18", "Unpack it."),
    ("a Feather (Arrow) file", rb"FEA1|ARROW1", ""),
    ("an ORC file", rb"ORC[^\x20-\x7e\s]", ""),
    ("an Avro file", rb"Obj\x01", ""),
    ("an HDF5 file", rb"\x89HDF", ""),
    ("a NumPy file", rb"\x93NUMPY", ""),
    ("an SQLite database", rb"SQLite format 3\x00", ""),
    ("an Excel file of the old kind", rb"\xd0\xcf\x11\xe0", ""),
    ("a Python pickle, which is never opened", rb"\x80[\x02-\x05]", ""),
    ("a PDF", rb"%PDF-", ""),
    ("an image", rb"\x89PNG|\xff\xd8\xff|GIF8", ""),
    ("JSON", rb"(?:\xef\xbb\xbf)?\s*(?:\{\s*\"|\[\s*[\[{])", ""),
    ("a web page", rb"(?i)\s*<(?:!doctype html|html)", "If it was downloaded, see that the address needs no login."),
)
_SAVE_AS = "Save it as CSV or Parquet."


def packing(head: bytes) -> str | None:
    """Return the compression of a file with this beginning: gzip, bzip2, xz, zstd, or None."""
    return next((name for name, pattern in _PACKINGS if re.match(pattern, head)), None)


def check_kind(label: object, head: bytes) -> None:
    """Raise :class:`DataError` where a file with this beginning is empty, not text, or of a kind that is not read."""
    if not head.strip():
        raise DataError(f"{label} is empty.")
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        raise not_utf8(label, "it begins as UTF-32 does", "utf-32")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise not_utf8(label, "it begins as UTF-16 does", "utf-16")
    for what, pattern, remedy in _FOREIGN:
        if re.match(pattern, head, re.DOTALL):
            raise DataError(f"{label} is {what}. {remedy or _SAVE_AS}")
    if head.startswith(b"PAR1"):
        return
    zeros = head[::2].count(0), head[1::2].count(0)
    for encoding, none, some in (("utf-16le", *zeros), ("utf-16be", *zeros[::-1])):
        if none < 0.1 * some and some > 0.4 * len(head):
            raise not_utf8(label, "it looks like UTF-16 without its mark", encoding)
    if _is_binary(head):
        raise DataError(f"{label} is not text but a binary file of a kind that is not known here. {_SAVE_AS}")


def _is_binary(head: bytes) -> bool:
    """Return whether bytes are no text in any encoding: many of them are control characters."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the bytes may end within a character
    except UnicodeDecodeError:
        return len(re.findall(rb"[\x00-\x08\x0e-\x1a\x7f]", head)) > 0.01 * len(head)
    return head.count(0) > 0.1 * len(head)
