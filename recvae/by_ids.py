"""Lists for histories of raw ids: lists of ids, and data frames with a column of users and one of items."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from recvae.arguments import Frame, is_frame
from recvae.capabilities import Capabilities
from recvae.errors import InputError
from recvae.frames.clicks import FrameClicks, clicked, lists_frame, read_clicks, refuse_result_names, training_matrix
from recvae.frames.ids import Columns, whole_ids
from recvae.frames.tables import LABEL
from recvae.queries import Answer, Query
from recvae.training.vocabulary import Naming, Vocabulary

if TYPE_CHECKING:
    from recvae.files import JsonObject

Masks = Iterable[str] | Iterable[Iterable[str]]
"""Raw item ids for all users, or a list of them for each user."""


class ByIds(Capabilities):
    """The methods of a model that take raw ids, and not columns of its catalogue."""

    items: Vocabulary

    if TYPE_CHECKING:

        def answer(self, query: Query) -> Answer:
            """Return the best items for each history of a query."""

        def _need_fit(self) -> None:
            """Raise :class:`InputError` where the model knows no items yet."""

    def recommend_ids(
        self,
        histories: Iterable[Iterable[str]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Masks | None = None,
        deny: Masks | None = None,
        skip_unknown: bool = False,
        **rules: Any,
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Return the ``k`` best raw item ids for each list of raw item ids, and their scores, best first.

        ``allow`` and ``deny`` are raw item ids for all users, or a list of them for each; ``conditions`` and all other
        ``rules`` are as for :meth:`recommend`. A list is shorter than ``k`` where fewer items are left. Raises
        :class:`InputError` naming the items it does not know, unless ``skip_unknown``.
        """
        self._need_fit()
        matrix, unknown = self.encode(histories)
        rules |= self._masks(allow, deny, unknown)
        if not skip_unknown:
            self.items.refuse_unknown(unknown)
        ids, scores = self.answer(Query(matrix, k, exclude_seen, **rules))
        kept = [row[row >= 0] for row in ids]
        return (
            [[self.items.ids[i] for i in row] for row in kept],
            [values[: len(row)].tolist() for row, values in zip(kept, scores, strict=True)],
        )

    def recommend_frame(
        self,
        frame: Frame,
        k: int = 10,
        *,
        user_column: str = "user",
        item_column: str = "item",
        exclude_seen: bool = True,
        allow: Masks | None = None,
        deny: Masks | None = None,
        skip_unknown: bool = False,
        **rules: Any,
    ) -> Frame:
        """Return the ``k`` best items for each user of a data frame of clicks, as a data frame.

        ``frame``: a frame of pandas, polars or pyarrow, or any object with Arrow's C stream interface, with a column of
        users and one of items; a row is a click, and other columns are not read. The users need not be known to the
        model. The result has the columns ``user_column``, ``item_column``, ``rank`` (int64, from 1) and ``score``
        (float32), a row for each listed item: users in order of first appearance, best items first. It is of pandas for
        a frame of pandas, of polars for one of polars, and else a pyarrow.Table. Users keep the type of their column;
        items do where it holds numbers, and are text beside any other column.

        Ids are matched as text: the number 7 and the text "7" are one id, and "007" is another. All other arguments are
        as for :meth:`recommend_ids`; what is given for each user is in the order of the users. Raises
        :class:`InputError` naming the items that the model does not know, unless ``skip_unknown``, and its child
        :class:`DataError`, naming the row, for a missing id, and for a column that there is not.
        """
        want = Columns(user_column, item_column)
        self._need_fit()
        clicks = read_clicks([frame], want)
        refuse_result_names(want)
        (matrix,), unknown = self._encoded(clicks)
        rules |= self._masks(allow, deny, unknown)
        if not skip_unknown:
            self.items.refuse_unknown(unknown)
        ids, scores = self.answer(Query(matrix, k, exclude_seen, **rules))
        return lists_frame(clicks, ids, scores, self.items.ids)

    def encode(self, histories: Iterable[Iterable[str]]) -> tuple[csr_array, list[str]]:
        """Return lists of raw item ids as CSR (n, n_items), and the ids the model does not know, each once.

        The values are ones, or for a model of ratings the least rating that counts as liked.
        """
        rows, unknown = self.items.encode(histories, self.named_value)
        return rows.in_scipy(), unknown

    def encode_frames(
        self,
        *frames: Frame,
        user_column: str = "user",
        item_column: str = "item",
        skip_unknown: bool = False,
        labels: Sequence[str] | None = None,
    ) -> tuple[list[csr_array], list[str]]:
        """Return the clicks of each data frame as CSR (n, n_items), and the ids of the users of all frames, n of them.

        Row u of every matrix is the user ``u`` of the list, which is in order of first appearance; a user without rows
        in a frame has an empty row there. The values are those of :meth:`encode`. ``labels`` call the frames in
        messages. Errors are those of :meth:`recommend_frame`.
        """
        self._need_fit()
        clicks = read_clicks(frames, Columns(user_column, item_column), labels or [LABEL] * len(frames))
        matrices, unknown = self._encoded(clicks)
        if not skip_unknown:
            self.items.refuse_unknown(unknown)
        return matrices, list(clicks.user_ids)

    def _encoded(self, clicks: FrameClicks) -> tuple[list[csr_array], list[str]]:
        """Return the clicks of each frame as CSR (n_users, n_items), and the ids that the model does not know."""
        known, ids = self.items.columns, clicks.item_ids
        if not any(item in known for item in ids):
            ids = whole_ids(ids)  # texts such as 1.0, whose ids were whole numbers when the model was trained
        columns = np.array([known.get(item, -1) for item in ids], dtype=np.int64)
        item = columns[clicks.item]
        shape = len(clicks.user_ids), len(self.items)
        matrices = []
        for part in clicks.parts:
            kept = item[part] >= 0
            matrices.append(clicked(clicks.user[part][kept], item[part][kept], shape, self.named_value))
        return matrices, [text for text, column in zip(ids, columns.tolist(), strict=True) if column < 0]

    def _masks(self, allow: Masks | None, deny: Masks | None, unknown: list[str]) -> "JsonObject":
        """Return raw item ids that are allowed and denied in columns; those that are not known go to ``unknown``."""
        found: JsonObject = {}
        for name, named in (("allow", allow), ("deny", deny)):
            if named is not None:
                found[name], strange = self.items.encode_mask(name, named)
                unknown += strange
        return found

    def _in_matrix(self, train: "csr_array | Frame", naming: Naming) -> tuple[csr_array, Naming]:
        """Return the training clicks as a matrix, and the names of its columns.

        Raises :class:`InputError` for a frame of clicks where the model learns from ratings, or where its items are
        named twice.
        """
        if not is_frame(train):
            return train, naming
        if naming.item_ids is not None or naming.titles is not None:
            raise InputError("item_ids and titles name the columns of a matrix; a data frame has its own item ids.")
        if self.of_ratings:
            raise InputError(
                f"The model '{self.name}' learns from ratings, and the rows of a data frame are clicks. Use "
                "data_prep.prepare(frame, ..., rating_column=..., ratings=True), and fit it on the dataset's ratings."
            )
        matrix, item_ids = training_matrix(train, Columns(naming.user_column, naming.item_column))
        return matrix, naming._replace(item_ids=item_ids)
