"""Outputs of the verbs: checks of the place before the work starts, and ranked lists as files.

Lists are Parquet, CSV or JSON lines with the columns user, rank, item_id, title, score, and with reasons rank_by_score
and reasons, or in CSV, which has no lists, four columns for each reason.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recvae.cli.blocks import Block
from recvae.cli.plain_lists import write_plain
from recvae.errors import InputError, WorkError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from recvae.training.vocabulary import Vocabulary

SUFFIXES = (".parquet", ".csv", ".jsonl")
HELD = ExitStack()  # the outputs of the command under way; closed where it ends


def hold(out: Path, *inputs: str | Path | None, marker: str | None = None) -> None:
    """Lock ``out`` until the command ends: no other process may write there meanwhile.

    ``inputs``: the paths that the command reads; None is ignored, and so is a text that is no file, such as the name of
    a known dataset or configuration. ``marker`` as in
    :func:`recvae.files.swap.refuse_inputs`. Raises :class:`InputError` where ``out`` is an input, and
    :class:`WorkError` where another process writes there or nothing can be written.
    """
    from recvae.files import writing
    from recvae.files.swap import refuse_inputs

    paths = [Path(given) for given in inputs if isinstance(given, Path) or (given and Path(given).is_file())]
    refuse_inputs(out, paths, marker=marker)
    _check_place(out)
    HELD.enter_context(writing(out))


def check_folder(path: Path, *, marker: str, overwrite: bool) -> None:
    """Raise :class:`InputError` where a folder may not be replaced, and :class:`WorkError` where it cannot be written.

    Called before the work, which may take hours; ``marker`` as in :func:`recvae.files.whole_folder`.
    """
    from recvae.files import refuse_existing

    refuse_existing(path, marker=marker, overwrite=overwrite)
    _check_place(path)


def _check_place(path: Path) -> None:
    """Raise :class:`WorkError` unless the nearest folder above ``path`` that exists can be written to."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise WorkError(f"Cannot write {path}: {above} is a file, not a folder. Choose another place to write to.")
    if not os.access(above, os.W_OK):
        raise WorkError(f"Cannot write {path}: you may not write to {above}. Choose another place to write to.")


def check_output(path: Path, *, overwrite: bool, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise as :func:`check_folder` does, and :class:`InputError` for an unknown suffix."""
    if path.suffix not in suffixes:
        raise InputError(f"{path} must end in one of {', '.join(suffixes)}; its suffix says how to write.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file to write.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already. Choose another place, or replace it with --overwrite.")
    _check_place(path)


def write_blocks(path: Path, items: "Vocabulary", blocks: Iterable[Block], reasons: int = 0) -> int:
    """Write ranked lists, whole or not at all, and return the number of rows.

    ``reasons``: how many of them each block has for a listed item.
    """
    from recvae.files import whole_file

    if find_spec("pyarrow") is None:  # where exported models are served
        return write_plain(path, items, blocks, reasons)
    schema = _schema(reasons, flat=path.suffix == ".csv")
    rows = 0
    with whole_file(path) as temporary, _writer(temporary, path.suffix, schema) as write:
        for block in blocks:
            table = _table(block, items, schema)
            write(table)
            rows += table.num_rows
    return rows


def _schema(reasons: int, *, flat: bool) -> "pa.Schema":
    """Return the columns of a file of lists; ``flat`` has a column for each part of each reason."""
    import pyarrow as pa

    named = [("item_id", pa.string()), ("title", pa.string()), ("score", pa.float32())]
    columns = [("user", pa.string()), ("rank", pa.int32()), *named]
    if reasons:
        of_reason = [*named, ("rank", pa.int32())]
        columns.append(("rank_by_score", pa.int32()))
        if flat:
            columns += [(f"reason_{n}_{name}", kind) for n in range(1, reasons + 1) for name, kind in of_reason]
        else:
            columns.append(("reasons", pa.list_(pa.struct(of_reason))))
    return pa.schema(columns)


def _table(block: Block, items: "Vocabulary", schema: "pa.Schema") -> "pa.Table":
    """Return a block's lists, one below the other, without their padding."""
    import numpy as np
    import pyarrow as pa

    row, place = np.nonzero(block.ids >= 0)
    chosen = block.ids[row, place]
    names = (np.array(values, dtype=np.object_) for values in (block.users, items.ids, items.titles))
    users, ids, titles = names
    columns = [users[row], place.astype(np.int32) + 1, ids[chosen], titles[chosen], block.scores[row, place]]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=False)]
    if block.reasons is not None:
        arrays.append(pa.array(block.reasons.ranks[row, place]))
        found = block.reasons.items[row, place]  # (rows, r)
        scores, ranks = block.reasons.scores[row, place], block.reasons.ranks_without[row, place]
        parts = ids[found], titles[found], scores, ranks
        arrays += _nested(found >= 0, parts, schema) if "reasons" in schema.names else _flat(found >= 0, parts)
    return pa.table(arrays, schema=schema)


def _nested(there: "NDArray[np.bool_]", parts: "Sequence[NDArray[Any]]", schema: "pa.Schema") -> "list[pa.Array]":
    """Return one column of lists of reasons; ``parts``, (rows, r) each, are of reasons where ``there`` (rows, r)."""
    import numpy as np
    import pyarrow as pa

    fields = [*schema.field("reasons").type.value_type]
    arrays = [pa.array(part[there], field.type) for part, field in zip(parts, fields, strict=True)]
    ends = np.concatenate(([0], np.cumsum(there.sum(1)))).astype(np.int32)
    return [pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays(arrays, fields=fields))]


def _flat(there: "NDArray[np.bool_]", parts: "Sequence[NDArray[Any]]") -> "list[pa.Array]":
    """Return the parts of the first reason, those of the second and so on, empty where there is none."""
    import pyarrow as pa

    return [pa.array(part[:, n], mask=~there[:, n]) for n in range(there.shape[1]) for part in parts]


@contextmanager
def _writer(path: Path, suffix: str, schema: "pa.Schema") -> Iterator[Callable[["pa.Table"], object]]:
    """Yield a function that appends a table to a new file."""
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetWriter(path, schema) as parquet:
            yield parquet.write_table
    elif suffix == ".csv":
        import pyarrow.csv as pc

        with pc.CSVWriter(path, schema) as text:
            yield text.write_table
    else:
        with path.open("w", encoding="utf-8", newline="\n") as file:
            yield lambda table: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist())
