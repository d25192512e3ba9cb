"""The ledger of a folder of lists, ``_lists.json``: its settings, and each finished part with digests.

    {"kind": "recvae-lists", "format": 1, "settings": {...}, "sources": [...] or null,
     "parts": {"part-0.parquet": {"source": {"file", "bytes", "sha256"}, "lists": {"bytes", "sha256"},
                                  "users": 8192, "rows": 819200, "clicks": 600000, "unknown": 12, "empty": 0, ...}}}

The lists of a part are in their place before the ledger names them. So a part that the ledger does not name is made
again, and a part that was made from another file, or was altered, is too. ``sources``: the files that were sorted.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from recvae.errors import FormatError, InputError
from recvae.files import Document, JsonObject, file_hash, from_json, read_json, write_json
from recvae.serving.lists.asked import Asked, Columns, Counts, UserTable
from recvae.serving.lists.parts import Part

LEDGER = "_lists.json"
KIND, FORMAT = "recvae-lists", 1
_LONGEST = 40  # values of a setting that the ledger holds as they are; of more it has a digest


@dataclass
class Entry:
    """A finished part: the file that it was made from, the digest of its lists, and its numbers."""

    source: JsonObject
    lists: JsonObject
    counts: Counts


class Ledger:
    """The ledger of a folder, read from it or new."""

    def __init__(self, folder: Path, settings: Document, sources: Sequence[Document] | None) -> None:
        self.folder, self.settings, self.sources = folder, dict(settings), None if sources is None else [*sources]
        self.parts: dict[str, Entry] = {}

    @classmethod
    def read(cls, folder: Path) -> "Ledger":
        """Return a folder's ledger; raise :class:`FormatError` where it is damaged or another version's."""
        path = folder / LEDGER
        told = read_json(path)
        try:
            if told["kind"] != KIND or told["format"] != FORMAT:
                raise ValueError("another kind or version")
            found = cls(folder, told["settings"], told["sources"])
            for name, part in told["parts"].items():
                counts = Counts(**{of.name: part[of.name] for of in fields(Counts)})
                found.parts[str(name)] = Entry(dict(part["source"]), dict(part["lists"]), counts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"{path} was altered, or is another version's. Make the lists again with overwrite=True."
            ) from error
        return found

    def write(self) -> None:
        """Write the ledger, whole or not at all."""
        entries = sorted(self.parts.items())  # resumed or not, the same parts make the same ledger
        parts = {name: {"source": e.source, "lists": e.lists, **asdict(e.counts)} for name, e in entries}
        value = {"kind": KIND, "format": FORMAT, "settings": self.settings, "sources": self.sources, "parts": parts}
        write_json(self.folder / LEDGER, value)

    def same(self, other: "Ledger") -> bool:
        """Whether these lists were made as the other ones, from the same files where they were sorted."""
        return self.settings == other.settings and self.sources == other.sources

    def refuse_others(self, other: "Ledger", path: Path) -> None:
        """Raise :class:`InputError` naming the first difference from ``other`` lists; ``path``: of these lists."""
        for name in {**self.settings, **other.settings}:
            before, now = self.settings.get(name), other.settings.get(name)
            if before != now:
                raise InputError(
                    f"{path} was begun with {name} {_shown(before)}, and {_shown(now)} is asked for now. Ask as before "
                    "to go on with it, or begin anew with overwrite=True."
                )
        if self.sources != other.sources:
            raise InputError(f"{path} was begun with other files of histories. Begin anew with overwrite=True.")

    def holds(self, parts: Sequence[Part]) -> bool:
        """Whether the folder has whole lists of each of these parts, as they are now, and no others."""
        if self.sources is not None:  # of sorted parts, which are gone
            return all(entry.lists == facts_or_none(self.folder / name) for name, entry in self.parts.items())
        return {part.lists for part in parts} == {*self.parts} and all(self.finished(part) for part in parts)

    def finished(self, part: Part) -> bool:
        """Whether a part's lists are there, made from the part's present file and not altered."""
        entry = self.parts.get(part.lists)
        return (
            entry is not None
            and entry.lists == facts_or_none(self.folder / part.lists)
            and entry.source == {"file": part.path.name, **facts(part.path)}
        )

    def counts(self) -> Counts:
        """Return the numbers of all finished parts."""
        total = Counts()
        for entry in self.parts.values():
            total.add(entry.counts)
        return total


def facts(path: Path) -> JsonObject:
    """Return a file's size and SHA-256."""
    try:
        return {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def facts_or_none(path: Path) -> JsonObject | None:
    """Return :func:`facts`, None where there is no such file."""
    return facts(path) if path.is_file() else None


def settings_of(asked: Asked, columns: Columns, more: Document) -> JsonObject:
    """Return everything but the histories on which lists depend, as plain values; of many values their digest.

    ``more``: the model's version, and other facts that are compared when lists are resumed.
    """
    import pyarrow as pa

    from recvae import __version__

    rules = {name: _brief(value) for name, value in vars(asked).items() if name != "each"}
    each = {f"{name} of each user": _table_digest(table) for name, table in asked.each.items()}
    named = {"user_column": columns.user, "item_column": columns.item, "rating_column": columns.rating}
    programs = {"recvae": __version__, "pyarrow": pa.__version__}
    settings = {**more, **rules, **each, **named, "condition_columns": columns.conditions, **programs}
    plain: JsonObject = from_json(json.dumps(settings))  # as it is read back
    return plain


def _brief(value: object) -> object:
    """Return a rule's value for JSON."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str):
        values = list(value)
        if len(values) > _LONGEST:
            digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
            return f"{len(values):,} values of SHA-256 {digest}"
        return values
    return value


def _table_digest(rule: UserTable) -> str:
    table = rule.table
    digest = hashlib.sha256("\n".join(rule.users).encode("utf-8", "surrogatepass"))
    for part in (table.indptr, table.indices):
        digest.update(np.asarray(part, dtype=np.int64).tobytes())
    return f"{len(rule.users):,} users of SHA-256 {digest.hexdigest()}"


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
