"""From an Arrow record batch of histories to a record batch of lists: the one function of every way to make many lists.

A batch of histories has a row for each user: the user's id, and a list column with the ids of the user's items. A batch
of lists has the columns ``user``, ``rank``, ``item`` and ``score``, a row for each listed item; ``wide`` lists have a
row for each user and the list columns ``items`` and ``scores``. With reasons there are ``rank_by_score`` and
``reasons`` too.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.errors import DataError, InputError
from recvae.queries import Reasons
from recvae.serving.lists.arrays import (
    as_lists,
    as_text,
    distinct,
    ends,
    flat_lists,
    history_matrix,
    is_list,
    numbers,
    places,
)
from recvae.serving.lists.asked import SHOWN, Asked, Columns, Counts, Histories
from recvae.serving.model import Model

if TYPE_CHECKING:
    import pyarrow as pa


class Lister:
    """Makes batches of lists from batches of histories: ``lists = Lister(model, Asked(k=100))(batch)``.

    ``columns``: of the histories. ``flat``: for CSV, which has no lists: reasons are columns of their own. Raises
    :class:`InputError` where model, columns and form do not go together.
    """

    def __init__(self, model: Model, asked: Asked, columns: Columns | None = None, *, flat: bool = False) -> None:
        import pyarrow as pa

        self.model, self.asked, self.columns, self.flat = model, asked, columns or Columns(), flat
        self.ids = pa.array(model.items.ids, pa.string())
        if (self.columns.rating is not None) != model.of_ratings:
            raise InputError(
                "The model was trained on ratings: name the column of ratings."
                if model.of_ratings
                else "The model was trained on clicks, to which a rating says nothing: name no column of ratings."
            )
        if self.columns.conditions and not model.condition_names:
            raise InputError("The model has no conditions, so that no column of the histories can name any.")
        if asked.wide and flat:
            raise InputError("Lists with a row for each user have list columns, which CSV does not have. Use Parquet.")

    @property
    def schema(self) -> "pa.Schema":
        """The columns of :meth:`__call__`'s batches."""
        import pyarrow as pa

        reasons, text, place, score = self.asked.reasons, pa.string(), pa.int32(), pa.float32()
        of_reason = [("item", text), ("score", score), ("rank", place)]
        columns = [("user", text), ("rank", place), ("item", text), ("score", score)]
        if self.asked.wide:
            columns = [("user", text), ("items", pa.list_(text)), ("scores", pa.list_(score))]
            if reasons:
                columns += [
                    ("ranks_by_score", pa.list_(place)), ("reasons", pa.list_(pa.list_(pa.struct(of_reason))))
                ]  # fmt: skip
        elif reasons:
            columns.append(("rank_by_score", place))
            if self.flat:
                columns += [(f"reason_{n}_{name}", kind) for n in range(1, reasons + 1) for name, kind in of_reason]
            else:
                columns.append(("reasons", pa.list_(pa.struct(of_reason))))
        return pa.schema(columns)

    @property
    def coded_schema(self) -> "pa.Schema":
        """The columns of :meth:`coded_lists`."""
        import pyarrow as pa

        schema, coded = self.schema, pa.dictionary(pa.int32(), pa.string())
        for name in () if self.asked.wide else ("user", "item"):
            schema = schema.set(schema.get_field_index(name), pa.field(name, coded))
        return schema

    def __call__(self, batch: "pa.RecordBatch") -> "pa.RecordBatch":
        """Return the lists of a batch of histories; raise :class:`DataError` for one that cannot be used."""
        return self.lists(self.histories(batch))

    def histories(self, batch: "pa.RecordBatch") -> Histories:
        """Return a batch's histories in the model's columns; an item counts once, with its first rating."""
        import pyarrow as pa
        import pyarrow.compute as pc

        users = as_text(batch.column(self.columns.user), self.columns.user)
        if users.null_count or pc.any(pc.equal(users, "")).as_py():
            raise DataError(f"The column '{self.columns.user}' has a row whose user has no id. Correct or remove it.")
        name = self.columns.item
        indptr, values = flat_lists(batch.column(name), name)
        codes, ids = distinct(values, name)
        missing = np.append(pc.equal(ids, "").to_numpy(zero_copy_only=False), True)  # the last one of code -1
        _refuse(missing[codes], f"an item without an id in the column '{name}'", indptr, users)
        columns = places(ids, self.ids)
        entries = columns[codes]
        matrix = history_matrix(
            indptr, entries, self._ratings(batch, indptr, users), len(self.ids), self.model.named_value
        )
        unknown = int(np.count_nonzero(entries < 0))
        such_as = ids.take(pa.array(np.flatnonzero(columns < 0)[:SHOWN])).to_pylist() if unknown else []
        return Histories(users, matrix, self._conditions(batch, users), len(entries), unknown, such_as)

    def _ratings(
        self, batch: "pa.RecordBatch", indptr: NDArray[np.int64], users: "pa.Array"
    ) -> NDArray[np.float64] | None:
        """Return the rating of each item of the histories, None without such a column."""
        name = self.columns.rating
        if name is None:
            return None
        starts, values = flat_lists(batch.column(name), name)
        if not np.array_equal(starts, indptr):
            user = users[int((starts != indptr).argmax()) - 1]
            raise DataError(f"User '{user}' has another number of ratings in the column '{name}' than items.")
        found = numbers(values, name)
        _refuse(
            ~(np.isfinite(found) & (found > 0)), f"a rating in the column '{name}' that is not above 0", indptr, users
        )
        return found

    def lists(self, histories: Histories) -> "pa.RecordBatch":
        """Return the lists of some histories."""
        coded = self.coded_lists(histories)
        return coded.cast(self.schema)

    def coded_lists(self, histories: Histories) -> "pa.RecordBatch":
        """Return the lists with users and items as dictionaries, which files of Parquet are written from fastest."""
        import pyarrow as pa

        answer = self.model.answer(self.asked.query(histories))
        rows, ranks = np.nonzero(answer.ids >= 0)
        chosen, scores = pa.array(answer.ids[rows, ranks]), pa.array(answer.scores[rows, ranks])
        reasons = {} if answer.reasons is None else self._reasons(answer.reasons, rows, ranks)
        if self.asked.wide:
            offsets = ends(np.bincount(rows, minlength=len(histories.users)))
            lists = {"items": self.ids.take(chosen), "scores": scores, **reasons}
            columns = {"user": histories.users, **{name: as_lists(offsets, part) for name, part in lists.items()}}
        else:
            users = pa.DictionaryArray.from_arrays(pa.array(rows.astype(np.int32)), histories.users)
            items = pa.DictionaryArray.from_arrays(chosen, self.ids)
            place = pa.array(ranks.astype(np.int32) + 1)
            columns = {"user": users, "rank": place, "item": items, "score": scores, **reasons}
        return pa.record_batch([*columns.values()], names=self.schema.names)

    def try_once(self) -> None:
        """Ask the model about one user without clicks; raise the errors of options that it cannot use."""
        import pyarrow as pa

        nothing = pa.array([[]], pa.list_(pa.string()))
        names = self.columns.names()
        columns = [pa.array(["nobody"]), nothing, *([nothing] * (len(names) - 2))]
        if self.columns.rating is not None:
            columns[2] = pa.array([[]], pa.list_(pa.float64()))
        self.lists(self.histories(pa.record_batch(columns, names=names)))

    def counts(self, histories: Histories, lists: "pa.RecordBatch") -> Counts:
        """Return the numbers of a batch and of its lists."""
        import pyarrow.compute as pc

        users = len(histories.users)
        if self.asked.wide:
            lengths = pc.list_value_length(lists.column("items")).to_numpy()
            rows, listed = int(lengths.sum()), int(np.count_nonzero(lengths))
        else:
            rows, listed = lists.num_rows, len(np.unique(lists.column("user").indices.to_numpy()))
        return Counts(users, rows, histories.clicks, histories.unknown, users - listed, histories.such_as)

    def _reasons(self, found: Reasons, rows: NDArray[np.int64], ranks: NDArray[np.int64]) -> "dict[str, pa.Array]":
        """Return the columns of reasons, with a row for each listed item."""
        import pyarrow as pa

        items = found.items[rows, ranks]  # (listed, r)
        there = items >= 0
        parts = {"item": items, "score": found.scores[rows, ranks], "rank": found.ranks_without[rows, ranks]}
        columns = {"rank_by_score": pa.array(found.ranks[rows, ranks])}
        if self.flat:
            for n in range(items.shape[1]):
                for name, part in parts.items():
                    values = pa.array(part[:, n], mask=~there[:, n])
                    columns[f"reason_{n + 1}_{name}"] = self.ids.take(values) if name == "item" else values
            return columns
        kept = {name: pa.array(part[there]) for name, part in parts.items()}
        kept["item"] = self.ids.take(kept["item"])
        columns["reasons"] = as_lists(ends(there.sum(1)), pa.StructArray.from_arrays([*kept.values()], names=[*kept]))
        return columns

    def _conditions(self, batch: "pa.RecordBatch", users: "pa.Array") -> list[tuple[str, ...]] | None:
        """Return each user's names of conditions, None where no column has them."""
        if not self.columns.conditions:
            return None
        found: list[dict[str, None]] = [{} for _ in range(len(users))]
        for column in self.columns.conditions:
            prefix = f"{column}=" if any(name.startswith(f"{column}=") for name in self.model.condition_names) else ""
            values = batch.column(column)
            lists = (
                values.to_pylist()
                if is_list(values.type)
                else [[value] for value in as_text(values, column).to_pylist()]
            )
            for of_user, names in zip(found, lists, strict=True):
                of_user.update((f"{prefix}{name}", None) for name in names or () if name not in (None, ""))
        return [tuple(of_user) for of_user in found]


def _refuse(wrong: NDArray[np.bool_], what: str, indptr: NDArray[np.int64], users: "pa.Array") -> None:
    """Raise :class:`DataError` naming the user of the first entry that ``wrong`` marks."""
    if wrong.any():
        user = users[int(np.searchsorted(indptr, wrong.argmax(), side="right")) - 1]
        raise DataError(f"User '{user}' has {what}. Correct or remove that entry.")
