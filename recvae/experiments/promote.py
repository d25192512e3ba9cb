"""A new run compared with the run in service on the same held-out users, and put in its place: ``recvae promote``.

Both models rank for the test users of one dataset, and each user's two values make a pair. The rule: the new run takes
the place of the one in service unless the whole interval of the paired mean difference (new less live) lies below
-margin. With a margin of 0 a run is refused only where it is worse beyond doubt; a margin is the loss that is put up
with for a model that knows the newest clicks and items. Where no run is in service, the new one is put there.

The catalogues of the dataset and of the two models may differ: the model in service learned from the items of an
earlier day. Items are matched by their raw ids, and

- a click of a history on an item that a model does not know is left out of the history, as a service leaves it out;
- a held-out item that a model does not know is a miss of that model;
- an item that a model knows and the dataset does not have is left out of the model's lists: nobody in the dataset can
  have clicked it, so that its place in a list could only be a miss.
"""

import filecmp
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from eval import PER_USER, Comparison, Evaluation, compare, evaluate, parse_metrics
from recvae.errors import ConfigError, DataError, FormatError, InputError, WorkError
from recvae.experiments.facts import beyond_catalogue, other_split
from recvae.files import Document, JsonObject, recover, refuse_existing, whole_folder
from recvae.files.swap import one_version
from recvae.queries import Answer, Query
from recvae.recommender import Recommender, load
from recvae.training import seals
from recvae.training.run_folder import RUN, WEIGHTS, forms_of, version_of

if TYPE_CHECKING:
    from data_prep.dataset import Dataset

OnRanked = Callable[[Path, int, int], None]  # a run, its users ranked so far, and all of them

_DRAWS_ANEW = ("strong", "random")  # splits whose held-out clicks are others where clicks were added


@dataclass(frozen=True, eq=False)
class Matched:
    """A model that ranks the items of a dataset, matched by their ids, in the dataset's columns.

    ``known``: CSR (n_items of the dataset, n_items of the model), a one for each item of both. ``back``: int32 (n_items
    of the model,), the dataset's column of each of the model's items, -1 where it has none.
    """

    model: Recommender
    known: csr_array
    back: NDArray[np.int32]

    def answer(self, query: Query) -> Answer:
        """Return the lists of items that the model and the dataset share, in the dataset's columns."""
        gone = np.flatnonzero(self.back < 0)
        answer = self.model.answer(replace(query, histories=query.histories @ self.known, deny=gone))
        listed = answer.ids >= 0
        return replace(answer, ids=np.where(listed, self.back[answer.ids], np.int32(-1)))


@dataclass(frozen=True, eq=False)
class Measured:
    """A run, the evaluation of its model, and how its catalogue differs from the dataset's.

    ``forms``: the digests of the run's files. ``unknown``: the dataset's items that the model does not know, and the
    clicks of histories and held-out clicks on them; ``left_out_items``: the model's items that the dataset does not
    have. ``same_data``: whether the model was trained on the dataset as it is now.
    """

    folder: Path
    model: str
    version: str
    forms: seals.Forms
    evaluation: Evaluation
    unknown: dict[str, int]
    left_out_items: int
    same_data: bool
    told: Document  # the facts that the run keeps of its dataset

    def to_dict(self) -> JsonObject:
        """Return the JSON form, without the values of each user."""
        return {
            "run": str(self.folder),
            "model": self.model,
            "version": self.version,
            "metrics": self.evaluation.to_dict()["metrics"],
            "unknown": self.unknown,
            "left_out_items": self.left_out_items,
            "same_data": self.same_data,
        }


@dataclass(frozen=True, eq=False)
class Weighing:
    """The new run's figures, those of the run in service, and the paired difference (new less live).

    Without a run in service ``live`` and ``difference`` are None.
    """

    new: Measured
    live: Measured | None
    difference: Comparison | None
    margin: float

    @property
    def passes(self) -> bool:
        """Whether the new run may take the place: unless the whole interval lies below -margin."""
        return self.difference is None or self.difference.high >= -self.margin


def weigh(
    new: Path,
    live: Path | None,
    data: "Dataset",
    *,
    metric: str,
    margin: float = 0.0,
    other_data: bool = False,
    device: str = "auto",
    progress: OnRanked = lambda run, done, total: None,
) -> Weighing:
    """Measure the run ``new``, and ``live`` where there is one, on the test users of ``data``, and compare them.

    One model is in memory at a time. ``metric``: one with a value per user. ``other_data`` allows a new run that was
    trained on other data than ``data``: then nothing tells whether it learned from clicks that are held out.

    Raises :class:`ConfigError` for the metric or the margin, :class:`FormatError` for a damaged run,
    :class:`InputError` for a new run of other data and for a model that shares no item with the dataset, and
    :class:`DataError` where fewer than two users have held-out clicks.
    """
    check_rule(metric, margin)
    ours = _measured(new, data, metric, device, progress, other_data=other_data)
    theirs = None if live is None else _measured(live, data, metric, device, progress, other_data=True)
    if ours.evaluation.metrics[metric].users < 2:
        raise DataError(f"{_place(data)} has fewer than two test users with held-out clicks: nothing can be compared.")
    difference = None
    if theirs is not None:
        difference = compare(ours.evaluation.per_user[metric], theirs.evaluation.per_user[metric])
    return Weighing(ours, theirs, difference, margin)


def check_rule(metric: str, margin: float) -> None:
    """Raise :class:`ConfigError` unless ``metric`` is one with a value per user, and ``margin`` from 0 to 1."""
    names = parse_metrics(metric)
    if [str(name) for name in names] != [metric] or names[0].name not in PER_USER:
        raise ConfigError(f"Runs are compared by one metric with a value per user, such as ndcg@100, not '{metric}'.")
    if not 0 <= margin <= 1:
        raise ConfigError(f"The margin is the loss that is put up with, from 0 to 1, and not {margin:g}.")


def in_service(live: Path) -> bool:
    """Return whether a run is in the place ``live``; raise :class:`InputError` where something else is there."""
    if live.is_file():
        raise InputError(
            f"{live} is a file. Name the folder of the run in service, or a folder that does not exist yet."
        )
    recover(live, marker=RUN, whole=WEIGHTS)
    refuse_existing(live, marker=RUN, overwrite=True)
    return (live / RUN).is_file()


def same_run(one: Path, other: Path) -> bool:
    """Return whether two folders hold the same files, byte for byte."""
    parts = _parts(one)
    if parts != _parts(other):
        return False
    return all(is_folder or filecmp.cmp(one / part, other / part, shallow=False) for part, is_folder in parts)


def put_copy(run: Path, place: Path, forms: seals.Forms) -> None:
    """Put a copy of the folder ``run`` in the place of the run ``place``, which is the old or the new one at any time.

    The folder ``run`` stays as it is. ``forms``: the digests that its files must have. Raises :class:`WorkError` where
    the files are others by now, or the operating system refuses, and :class:`InputError` where ``place`` is no run.
    """
    with whole_folder(place, marker=RUN, overwrite=True) as temporary:
        try:
            for part, is_folder in _parts(run):
                if is_folder:
                    (temporary / part).mkdir()
                else:
                    shutil.copyfile(run / part, temporary / part)
            seals.verify(temporary)
            whole = forms_of(temporary) == forms
        except (FileNotFoundError, FormatError):  # a file was replaced or removed meanwhile
            whole = False
        if not whole:
            raise WorkError(f"{run} was changed while it was read. Run the command again when nobody writes there.")


def _parts(run: Path) -> list[tuple[Path, bool]]:
    """Return the paths within a run folder, a folder before its files, each with whether it is a folder.

    Hidden ones are left out: a lock, or an unfinished file.
    """
    found = [(path.relative_to(run), path.is_dir()) for path in sorted(run.rglob("*"))]
    return [(part, is_folder) for part, is_folder in found if not any(name.startswith(".") for name in part.parts)]


def doubt_about_live(weighing: Weighing, data: "Dataset") -> str:
    """Return a sentence where the model in service may have learned from clicks that are held out here, or ''."""
    live = weighing.live
    split = data.manifest.get("protocol", {}).get("split")
    if live is None or live.same_data or split not in _DRAWS_ANEW or not other_split(live.told, data):
        return ""
    return (
        f"{live.folder} was trained on other clicks, and a {split} split holds out others where clicks were added: it "
        "may have learned from clicks that are held out now, and look better than it is. A split by time holds out "
        "what no earlier run has seen (recvae prepare --split temporal)."
    )


def _measured(
    folder: Path, data: "Dataset", metric: str, device: str, progress: OnRanked, *, other_data: bool
) -> Measured:
    """Return a run's evaluation on the test users; errors as for :func:`weigh`."""
    model, forms, version = _opened(folder, device)
    same_data = model.items.hash() == data.vocabulary_hash and not other_split(model.dataset, data)
    if not same_data and not other_data:
        raise InputError(
            f"{folder} was trained on other data than {_place(data)} holds, so clicks that it learned from may be held "
            "out there. Name the dataset folder that it was trained on; or, where you know that it has learned from "
            "none of them, add other_data=True."
        )
    query, clicks = model.held_out_inputs(data, "test")
    assert clicks is not None  # only training users have none
    column_of = np.array([model.items.columns.get(item, -1) for item in data.item_ids.tolist()], dtype=np.int64)
    shared = np.flatnonzero(column_of >= 0)
    if not shared.size:
        raise InputError(
            f"{folder} ({model.dataset.get('name') or 'unnamed data'}) knows none of the {data.n_items:,} items of "
            f"{_place(data)}: the two are of different data. Items are matched by their ids, as they are written."
        )
    evaluation = evaluate(
        _matched(model, column_of, shared),
        query,
        clicks,
        metric,
        beyond=beyond_catalogue(data, "test"),
        progress=lambda *done: progress(folder, *done),
    )
    return Measured(
        folder=folder,
        model=model.name,
        version=version,
        forms=forms,
        evaluation=evaluation,
        unknown={
            "items": int(data.n_items - shared.size),
            "history_clicks": int(np.count_nonzero(column_of[query.histories.indices] < 0)),
            "held_out_clicks": int(np.count_nonzero(column_of[clicks.indices] < 0)),
        },
        left_out_items=int(model.n_items - shared.size),
        same_data=same_data,
        told=model.dataset,
    )


def _opened(folder: Path, device: str) -> tuple[Recommender, seals.Forms, str]:
    """Return the model of a run, all of whose files were compared with its seal, their digests and the version."""

    def read() -> tuple[Recommender, seals.Forms, str]:
        forms, version = forms_of(folder), version_of(folder)
        model = load(folder, device)
        seals.verify(folder)
        return model, forms, version

    if not folder.exists():
        load(folder, device)  # which recovers a folder that was set aside, or raises
    return one_version(folder, read)


def _matched(model: Recommender, column_of: NDArray[np.int64], shared: NDArray[np.int64]) -> Recommender | Matched:
    """Return the model as it is where its columns are the dataset's, or else matched by ids.

    ``column_of``: the model's column of each of the dataset's, -1 where it has none; ``shared``: those that it has.
    """
    if np.array_equal(column_of, np.arange(model.n_items)):
        return model
    ones = np.ones(shared.size, np.float32)
    known = csr_array((ones, (shared, column_of[shared])), shape=(len(column_of), model.n_items))
    back = np.full(model.n_items, -1, np.int32)
    back[column_of[shared]] = shared
    return Matched(model, known, back)


def _place(data: "Dataset") -> Path | str:
    return data.path or data.name
