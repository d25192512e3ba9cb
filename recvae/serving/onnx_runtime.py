"""A model that was exported, loaded without torch and SciPy: onnxruntime scores and selects, and NumPy does the rest.

An :class:`Exported` answers a :class:`Query` as the :class:`recvae.recommender.Recommender` does that it was made from.
A plain list is one call of the graph, in which no other thread waits for this one: history, rules and selection are in
it. Lists by tags or diversity are chosen here from the graph's best candidates, and reasons from its scores.

The graph ``model.onnx``, for B users with N history entries in all, I items and C conditions:

    lengths      int64 [B]        entries of each user
    rows         int64 [N]        the user of each entry, ascending
    columns      int64 [N]        the item of each entry, ascending within a user
    values       float32 [N]      the value of each entry
    conditions   float32 [B, C]   of a model that has conditions
    hidden       bool [1 or B, I] items that may not be listed, the histories' own apart
    exclude_seen bool []          whether a history's items may not be listed
    k            int64 [1]        from 1 to I
    -> top_items int64 [B, k], top_scores float32 [B, k]    best first, equal scores by the lower item, -inf at the end
    -> scores    float32 [B, I]   before any rule

The graph ``similar.onnx``: items int64 [m] -> similarity float32 [m, I], as ``Recommender.similarity``, and where this
is another one, alike float32 [m, I], as ``Recommender.similarity_among``.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recvae.arguments import need_packages, path_of
from recvae.errors import FormatError, InputError, WorkError
from recvae.files import JsonObject
from recvae.files.swap import one_version
from recvae.matrices import Rows
from recvae.queries import (
    Answer,
    Mask,
    Names,
    Query,
    about_items,
    encoded_conditions,
    refuse_other_catalogue,
    with_conditions,
)
from recvae.ranking.best import NOT_NUMBERS, tiles, top_k
from recvae.ranking.masks import hidden_items, keep_admissible
from recvae.ranking.mixing import CANDIDATES, WIDER, WITH_TAGS, first_by_tags, limit_of_tags, mixed
from recvae.ranking.reasons import find_reasons
from recvae.training import item_files
from recvae.training.export_folder import GRAPH, ITEMS, REMEDY, TAGS, Manifest, check, read_manifest, version_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

    from recvae.training.vocabulary import Vocabulary

_INPUTS = {
    "lengths": "tensor(int64)",
    "rows": "tensor(int64)",
    "columns": "tensor(int64)",
    "values": "tensor(float)",
    "hidden": "tensor(bool)",
    "exclude_seen": "tensor(bool)",
    "k": "tensor(int64)",
}
_CONDITIONS = {"conditions": "tensor(float)"}
_OUTPUTS = {"top_items": "tensor(int64)", "top_scores": "tensor(float)", "scores": "tensor(float)"}
_SIMILAR = {"items": "tensor(int64)"}, {"similarity": "tensor(float)"}
# Of one call of a graph, so that its memory stays small beside the weights; larger calls are little faster.
SCORES_IN_MEMORY = 285_000
ENTRIES_IN_MEMORY = 1 << 12
_DIGITS = 12  # hexadecimal digits of a version, as run folders have them
ALIKE = "alike"  # an output that similar.onnx may have beside

Ports = dict[str, str]
"""The types of a graph's inputs or outputs by name."""


def load(folder: str | Path, threads: int = 1) -> "Exported":
    """Return the model of an export, whose files are as they were written; it computes with ``threads`` threads.

    Raises :class:`InputError` where there is no such folder or no onnxruntime, and :class:`FormatError` where the
    folder is no export, was altered, or its graph is not of the form above.
    """
    need_packages("An export", "onnxruntime", install="'recvae[export]'")
    place = path_of(folder)
    return one_version(place, lambda: _read(place, threads))


def _read(folder: Path, threads: int) -> "Exported":
    manifest = read_manifest(folder)
    check(folder)
    for name in (GRAPH, ITEMS):
        check(folder, name)  # that the manifest lists it
    items = _items(folder, manifest)
    inputs = {**_INPUTS, **(_CONDITIONS if manifest.conditions else {})}
    session = _session(folder / GRAPH, threads, inputs, _OUTPUTS, manifest.n_items)
    similar = None
    if manifest.similarity is not None:
        similar = _session(folder / manifest.similarity.file, threads, *_SIMILAR, manifest.n_items, copies=False)
    return Exported(manifest, version_of(folder)[:_DIGITS], items, session, similar)


def _items(folder: Path, manifest: Manifest) -> "Vocabulary":
    """Return the items and tags of an export; raise :class:`FormatError` where they are not the model's."""
    items = item_files.read_items(folder, check, REMEDY)
    if len(items) != manifest.n_items:
        raise FormatError(f"{folder / ITEMS} has {len(items):,} items, and the model {manifest.n_items:,}. {REMEDY}")
    return item_files.read_tags(folder, items, check, REMEDY) if TAGS in manifest.files else items


def _session(
    path: Path, threads: int, inputs: Ports, outputs: Ports, n_items: int, *, copies: bool = True
) -> "InferenceSession":
    """Return a graph that is ready to run; raise :class:`FormatError` where it is none, or not of this form.

    ``copies``: whether weights may be copied into the form in which they are multiplied fastest.
    """
    import onnxruntime

    try:
        options = _options(threads)
        options.add_session_config_entry("session.disable_prepacking", str(int(not copies)))
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no class in common
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"{path} cannot be loaded by onnxruntime ({reason}). {REMEDY}") from error
    given = {port.name: port.type for port in session.get_inputs()}
    made = {port.name: port for port in session.get_outputs()}
    for name in sorted({*given, *inputs}):
        if given.get(name) != inputs.get(name):
            has = f"has the input '{name}'" if name not in inputs else f"lacks the input '{name}'"
            what = has if (name in given) != (name in inputs) else f"has an input '{name}' of another type"
            raise FormatError(f"{path} is another program's graph: it {what}. {REMEDY}")
    for name, kind in outputs.items():
        if name not in made or made[name].type != kind:
            raise FormatError(f"{path} is another program's graph: it lacks the output '{name}', a {kind}. {REMEDY}")
    of_items = made["scores" if "scores" in made else "similarity"].shape[-1]
    if isinstance(of_items, int) and of_items != n_items:
        raise FormatError(f"{path} is the graph of another catalogue: it has {of_items:,} items, not {n_items:,}.")
    return session


def _options(threads: int) -> "SessionOptions":
    """Return the settings of a session: this many threads, which do not spin.

    Memory comes from the session's arena, for without it the allocator keeps several times as much, and is not planned
    from the sizes of earlier calls, for each call has its own.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # an error is raised, and its sentence is ours
    return options


class Exported:
    """The model of an export: what a service, a list and a search for similar items ask of any model.

    ``items``, ``n_items``, ``named_value``, ``of_ratings``, ``condition_names``, ``attributes``, ``dataset`` and
    ``metrics`` are those of the model that was exported; ``title`` is its name for people, and ``version`` 12
    hexadecimal digits of the manifest's digest.
    """

    device = "cpu"

    def __init__(
        self,
        manifest: Manifest,
        version: str,
        items: "Vocabulary",
        session: "InferenceSession",
        similar: "InferenceSession | None",
    ) -> None:
        self.manifest, self.items = manifest, items
        self.name, self.title, self.version = manifest.model, manifest.title, version
        self.n_items = manifest.n_items
        self.named_value, self.of_ratings = manifest.named_value, manifest.of_ratings
        self.condition_names, self.attributes = tuple(manifest.conditions), tuple(manifest.attributes)
        self.dataset: JsonObject = manifest.dataset
        self.metrics = manifest.metrics
        self._run, self._similar = session.run, similar
        self._nothing_hidden = np.zeros((1, self.n_items), dtype=bool)
        self._flags = {flag: np.array(flag) for flag in (False, True)}

    def hold(self) -> None:
        """Take memory to answer faster: there is nothing to take."""

    def encode(self, histories: Iterable[Iterable[str]]) -> tuple[Rows, list[str]]:
        """Return lists of raw item ids as rows (n, n_items), and the ids the model does not know, each once."""
        return self.items.encode(histories, self.named_value)

    def encode_conditions(self, names: Sequence[Sequence[str]]) -> Rows:
        """Return lists of condition names as rows of ones (n, C); errors as for ``Recommender.encode_conditions``."""
        return encoded_conditions(names, self.condition_names, self.attributes, self.title)

    def answer(self, query: Query) -> Answer:
        """Return the lists that answer ``query``: ids int32 (n, k) and scores float32 (n, k), and reasons.

        They are those of :meth:`recvae.recommender.Recommender.answer`, to the rounding of scores; errors too.
        """
        refuse_other_catalogue(query, self.n_items)
        query = self._known(query)
        n, width = query.n_users, min(query.k, self.n_items)
        ids = np.full((n, query.k), -1, dtype=np.int32)
        scores = np.full((n, query.k), -np.inf, dtype=np.float32)
        most = limit_of_tags(query)
        if query.diversity:
            self._need_similarity()
        for rows in self._blocks(query.histories):
            part = query if n == rows.stop - rows.start else query.of(rows)
            if most is None and not query.diversity:
                best, chosen = self._best(part, width)
            else:
                best, chosen = self._mixed(part, width, most)
            scores[rows, :width] = best
            ids[rows, :width] = np.where(best == -np.inf, -1, chosen)
        answer = Answer(ids, scores)
        if query.reasons:
            reasons = find_reasons(self._scores, self._scores_at, query, ids, item_tags=self._item_tags(query))
            answer = replace(answer, reasons=reasons)
        return answer

    def similar_items(
        self,
        ids: Sequence[int] | int,
        k: int = 10,
        *,
        allow: Mask = None,
        deny: Mask = None,
        allow_tags: Names = None,
        deny_tags: Names = None,
    ) -> Answer:
        """Return the ``k`` items most like each of ``ids``, as :meth:`Recommender.similar_items` does; errors too."""
        self._need_similarity()
        rules = {"allow": allow, "deny": deny, "allow_tags": allow_tags, "deny_tags": deny_tags}
        query = self._known(about_items(ids, k, self.n_items, **rules))
        width = min(k, self.n_items)
        found = np.full((query.n_users, k), -1, dtype=np.int32)
        scores = np.full((query.n_users, k), -np.inf, dtype=np.float32)
        for rows in self._blocks(query.histories):
            part = query.of(rows)
            block = self._similarity(part.histories.indices)
            keep_admissible(block, part, self._item_tags(query))
            best, columns = top_k(block, width)
            scores[rows, :width] = best
            found[rows, :width] = np.where(best == -np.inf, -1, columns)
        return Answer(found, scores)

    # --- of answers ---------------------------------------------------------------------------------------------

    def _known(self, query: Query) -> Query:
        """Return a query with its names of conditions and tags in columns; errors as for :meth:`answer`."""
        return self.items.with_columns(with_conditions(query, self.condition_names, self.encode_conditions))

    def _blocks(self, histories: Rows) -> Iterable[slice]:
        """Yield ranges of users for one call of a graph each."""
        rows = max(1, SCORES_IN_MEMORY // self.n_items)
        return (slice(*ends) for ends in tiles(np.diff(histories.indptr), rows, ENTRIES_IN_MEMORY))

    def _item_tags(self, query: Query) -> Rows | None:
        return self.items.tag_table if query.about_tags else None

    def _inputs(self, histories: Rows, conditions: Rows | None) -> dict[str, NDArray[np.generic]]:
        """Return the graph's inputs that are about users, of rows (b, I) and, of a model that has them, (b, C)."""
        n, lengths = histories.shape[0], np.diff(histories.indptr)
        given: dict[str, NDArray[np.generic]] = {
            "lengths": lengths.astype(np.int64, copy=False),
            "rows": np.repeat(np.arange(n), lengths),
            "columns": histories.indices.astype(np.int64, copy=False),
            "values": histories.data.astype(np.float32, copy=False),
        }
        if self.condition_names:
            given["conditions"] = asked = np.zeros((n, len(self.condition_names)), dtype=np.float32)
            if conditions is not None:
                asked[np.repeat(np.arange(n), np.diff(conditions.indptr)), conditions.indices] = 1
        return given

    def _best(self, query: Query, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and items of plain lists, (b, k) each, -inf where a list has ended."""
        ruled = not all(rule is None for rule in (query.allow, query.deny, query.allow_tags, query.deny_tags))
        best, items = self._run(
            ["top_scores", "top_items"],
            {
                **self._inputs(query.histories, query.conditions),
                "hidden": hidden_items(query, self._item_tags(query)) if ruled else self._nothing_hidden,
                "exclude_seen": self._flags[query.exclude_seen],
                "k": np.array([k]),
            },
        )
        if np.isnan(best).any():
            raise WorkError(NOT_NUMBERS)
        return best, items

    def _mixed(self, query: Query, k: int, most: int | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return as :meth:`_best` does lists with ``most`` items of a tag and diversity: recvae.ranking.rerank."""
        item_tags = None if most is None else self.items.tag_table
        best = np.full((query.n_users, k), -np.inf, dtype=np.float32)
        columns = np.zeros((query.n_users, k), dtype=np.int64)
        rows, wide = np.arange(query.n_users), min(self.n_items, (CANDIDATES if most is None else WITH_TAGS) * k)
        while len(rows):
            values, items = self._best(query.of(rows), wide)
            if query.diversity:
                places = mixed(values, items, k, query.diversity, self._among(items), item_tags, most)
            else:
                assert item_tags is not None
                assert most is not None
                places = first_by_tags(items.tolist(), (values > -np.inf).sum(1).tolist(), item_tags, most, k)
            chosen = np.maximum(places, 0)
            best[rows] = np.where(places < 0, -np.inf, np.take_along_axis(values, chosen, 1))
            columns[rows] = np.take_along_axis(items, chosen, 1)
            if wide == self.n_items or most is None:  # only tags leave candidates out
                break
            short = (best[rows, -1] == -np.inf) & (values[:, -1] > -np.inf)
            rows, wide = rows[short], min(self.n_items, WIDER * wide)
        return best, columns

    def _scores(self, histories: Rows, conditions: Rows | None = None) -> NDArray[np.float32]:
        """Return the scores of rows (b, I), float32 (b, I), new memory."""
        given = {
            **self._inputs(histories, conditions),
            "hidden": self._nothing_hidden,
            "exclude_seen": self._flags[False],
            "k": np.array([1]),
        }
        scores: NDArray[np.float32] = self._run(["scores"], given)[0]
        return scores

    def _scores_at(self, histories: Rows, items: NDArray[np.int64], *conditions: Rows) -> NDArray[np.float32]:
        """Return the scores of rows (b, I) at ``items`` (m,), float32 (b, m)."""
        blocks = ([part[rows] for part in (histories, *conditions)] for rows in self._blocks(histories))
        return np.concatenate([self._scores(*block)[:, items] for block in blocks])

    # --- of similarities ----------------------------------------------------------------------------------------

    def _need_similarity(self) -> None:
        if self._similar is None:
            said = self.manifest.no_similarity
            raise InputError(said or f"This {self.title} model does not know which items are alike.")

    def _similarity(self, items: NDArray[np.integer], output: str = "similarity") -> NDArray[np.float32]:
        """Return how alike ``items`` (m,) are to every item, float32 (m, I)."""
        assert self._similar is not None
        found: NDArray[np.float32] = self._similar.run([output], {"items": items.astype(np.int64, copy=False)})[0]
        return found

    def _among(self, items: NDArray[np.int64]) -> "_Among":
        assert self._similar is not None
        outputs = [port.name for port in self._similar.get_outputs()]
        return _Among(self, items, ALIKE if ALIKE in outputs else "similarity")


class _Among:
    """How alike one of each user's candidates ``items`` (b, P) is to all: :data:`recvae.ranking.mixing.Among`."""

    def __init__(self, model: Exported, items: NDArray[np.int64], output: str) -> None:
        self._model, self._items, self._output = model, items, output

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the similarities of the items at ``places`` (b,), float32 (b, P), 0 where there is none."""
        chosen = np.take_along_axis(self._items, places[:, None], 1)[:, 0]
        found = self._model._similarity(chosen, self._output)
        return np.nan_to_num(np.take_along_axis(found, self._items, 1), copy=False, nan=0.0, neginf=0.0)
