"""A weighted sum of trained models' scores, the weights chosen on validation users.

    s(u, i) = sum_c  w_c * s_c(u, i) / d_c        w_c >= 0, sum_c w_c = 1

d_c is the standard deviation of component c's scores around each user's mean, over all items and the histories passed
to the blend. It is one number per component, computed once: so the weights of different models can be compared, and one
user's scores depend on no other user. The weighted sum of scores is Fox and Shaw's linear combination ("Combination of
Multiple Searches", TREC-2, 1994) and the weighted hybrid of Burke ("Hybrid Recommender Systems", UMUAI 2002).
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from recvae.arguments import Frame, flag, items, path_of, shown
from recvae.capabilities import Vectors
from recvae.config import RunConfig
from recvae.errors import FormatError, InputError, WorkError
from recvae.files import JsonObject, file_hash, whole_folder
from recvae.matrices import canonical
from recvae.nn.batches import Batch
from recvae.options import option
from recvae.ranking.best import NOT_NUMBERS, SCORES_IN_MEMORY
from recvae.recommender import Recommender, Validation, load
from recvae.training.run_folder import (
    RUN,
    WEIGHTS,
    header_hash,
    read_facts,
    seal,
    write_items,
    write_run,
    write_weights,
)
from recvae.training.seals import SEAL, check
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Tags

COMPONENTS = "components"  # the folder of the components' run folders
SPREAD_ITEMS = 1000  # on which the spread of similarities is measured, at most
COARSE, FINE, REACH, PASSES = 0.05, 0.01, 4, 5  # a search's two steps, how far the fine one looks, and passes of each
NOT_TRAINED = (
    "A blend is not trained itself: train its models, then join them with: recvae blend RUN RUN DIR --out BLEND"
)

Weights = tuple[float, ...]
Score = Callable[[csr_array], Tensor]


@dataclass(frozen=True, kw_only=True)
class BlendOptions:
    """Options of a blend: its components and their weights."""

    components: tuple[str, ...] = option((), "Names of the models, in order.")
    weights: tuple[float, ...] = option((), "Weight of each component, in order; their sum is 1.", ge=0)


class Blend(Recommender):
    """Ranks by the weighted sum of the scores of ``components``, fitted models of one catalogue.

    ``histories``: CSR (n, n_items), such as the validation users' fold-in clicks; each component's spread is measured
    on the histories that are not empty (an empty one is ranked by popularity, on another scale). ``weights``: one per
    component, divided by their sum; equal ones where none are given. A component of weight 0 is not asked for scores.
    Raises :class:`InputError` for fewer than two components, one of ratings or of users' attributes, other catalogues,
    weights or histories that do not fit, and a component that scores all items alike; :class:`WorkError` for one whose
    scores are not numbers.
    """

    name = "blend"
    no_start = "is not trained itself: its models are"
    model_defaults = BlendOptions()
    components: Sequence[Recommender] = ()
    spreads: Sequence[float] = ()
    scorers: Sequence[Score] = ()
    alike_spreads: dict[int, float]  # spreads of similarities, by component

    def __init__(
        self,
        components: Sequence[Recommender],
        histories: csr_array,
        weights: Sequence[float] | None = None,
        *,
        device: str = "auto",
    ) -> None:
        components = items("The models of a blend", components)
        if len(components) < 2:
            raise InputError(f"A blend needs at least two models, and was given {len(components)}.")
        for component in components:
            if not isinstance(component, Recommender):
                raise InputError(f"A blend is made of fitted models, and not of {shown(component)}.")
            component._need_fit()
        for place, component in enumerate(components, start=1):
            if component.of_ratings:
                raise InputError(
                    f"Model {place} ({component.name}) of the blend was trained on ratings, and a blend hands clicks "
                    "to its models. Leave it out, or train it with model.ratings=false."
                )
            if "user_tags" in component.reads(component.config.model):
                raise InputError(
                    f"Model {place} ({component.name}) of the blend was trained on users' attributes, and a blend "
                    "hands clicks alone to its models. Leave it out, or train it without model.user_attributes."
                )
        first = components[0]
        for place, component in enumerate(components[1:], start=2):
            if component.items.hash() != first.items.hash():
                raise InputError(
                    f"Models 1 ({first.name}) and {place} ({component.name}) of the blend know different catalogues: "
                    "their columns are other items. Blend models that were trained on one dataset."
                )
        chosen = normalised([1.0] * len(components) if weights is None else weights, len(components))
        super().__init__(device=device, components=tuple(c.name for c in components), weights=chosen)
        tagged = next((component.items for component in components if component.items.tag_names), first.items)
        self.items = replace(first.items, tags=tagged.tags)
        self._join(components)
        rows = _not_empty(histories, self.n_items)
        self.spreads = [self._spread(place, rows) for place in range(len(components))]

    @classmethod
    def from_config(cls, config: RunConfig, device: str = "auto") -> Self:
        """Return a blend for :meth:`load` to complete; raise :class:`InputError` for a configuration to be trained."""
        blend = super().from_config(config, device)
        if not config.options(BlendOptions).weights:
            raise InputError(NOT_TRAINED)
        return blend

    def fit(
        self,
        train: csr_array | Frame,
        *,
        validation: Validation | None = None,
        item_ids: Sequence[str] | None = None,
        titles: Sequence[str] | None = None,
        item_tags: Tags | None = None,
        user_column: str = "user",
        item_column: str = "item",
    ) -> Self:
        """Raise :class:`InputError`: only the components can learn."""
        raise InputError(NOT_TRAINED)

    def _with(self, options: JsonObject) -> Self:
        raise InputError(NOT_TRAINED)

    def __repr__(self) -> str:
        """Return the models with their weights: Blend(0.40 EASE + 0.60 RecVAE; fitted: 40 items)."""
        parts = (f"{weight:.2f} {type(c).__name__}" for weight, c in zip(self.weights, self.components, strict=True))
        return f"{type(self).__name__}({' + '.join(parts)}; {self._state()})"

    @property
    def weights(self) -> Weights:
        """One weight per component; their sum is 1."""
        return self.config.options(BlendOptions).weights

    def with_weights(self, weights: Sequence[float]) -> Self:
        """Return a blend of the same components, which it shares, with other weights."""
        other = copy.copy(self)
        chosen = normalised(weights, len(self.components))
        other.config = replace(self.config, model=replace(self.config.model, weights=chosen))
        other.metrics = {}
        return other

    def scores(self, histories: csr_array) -> Tensor:
        """Return the weighted sum of the components' scores, float32 (b, n_items), of canonical CSR rows."""
        total = None
        for score, weight, spread in zip(self.scorers, self.weights, self.spreads, strict=True):
            if weight:
                part = score(histories).to(self.device)  # not changed in place: a search for weights keeps it
                total = part * (weight / spread) if total is None else total.add_(part, alpha=weight / spread)
        assert total is not None  # weights sum to 1
        return total

    def scores_of(self, batch: Batch) -> Tensor:
        parts = zip(self.components, self.weights, self.spreads, strict=True)
        weighted = [component.scores_of(batch) * (weight / spread) for component, weight, spread in parts if weight]
        return sum(weighted[1:], weighted[0])

    def scores_at(self, histories: csr_array, items: Tensor, *conditions: csr_array) -> Tensor:
        """Return :meth:`scores` of some items, float32 (b, m), from the components' scores of these."""
        total = torch.zeros(histories.shape[0], len(items), device=self.device)
        for component, weight, spread in zip(self.components, self.weights, self.spreads, strict=True):
            if weight:
                total.add_(component.scores_at(histories, items).to(self.device), alpha=weight / spread)
        return total

    @torch.no_grad()
    def similarity(self, items: Tensor) -> Tensor:
        """Return how alike items are by all components, -inf where no component has a similarity.

        sum_c w_c s_c(i, j) e / e_c: similarities of different models compare as scores do, each divided by its
        spread. e_c is the standard deviation of component c's similarities around each item's mean, over all others and
        at most :data:`SPREAD_ITEMS` evenly spaced items; e, the weighted mean of the e_c, keeps one component alone as
        it is. A pair without a similarity, as item-kNN has them, counts 0. Raises :class:`InputError` where a component
        with a weight above 0 has no similarities.
        """
        spreads = self._similarity_spreads()
        mean = math.fsum(weight * spreads[place] for place, weight in enumerate(self.weights) if weight)
        total = torch.zeros(items.shape[0], self.n_items, device=self.device)
        nowhere = torch.ones_like(total, dtype=torch.bool)
        for place, weight in enumerate(self.weights):
            if weight:
                part, none = self._alike(place, items)
                total.add_(part, alpha=weight * mean / spreads[place] if spreads[place] else 0.0)
                nowhere &= none
        return total.masked_fill_(nowhere, -torch.inf)

    def alike_of(self, items: Tensor) -> Tensor:
        parts = [w * c.alike_of(items) for c, w in zip(self.components, self.weights, strict=True) if w]
        return sum(parts[1:], parts[0])

    def vectors(self) -> Vectors:
        """Return the components' vectors side by side, each item's times the component's weight over its spread."""
        parts = zip(self.components, self.weights, self.spreads, strict=True)
        found = [(component.vectors(), weight / spread) for component, weight, spread in parts if weight]
        return Vectors(
            torch.cat([part.items * factor for part, factor in found], dim=1),
            lambda batch: torch.cat([part.of_users(batch) for part, _ in found], dim=1),
        )

    def hold(self) -> None:
        for component in self.components:
            component.hold()

    def similarity_among(self, items: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the weighted mean of the components' similarities, each of which is 1 at most."""
        pairs = []
        for component, weight in zip(self.components, self.weights, strict=True):
            if weight:
                try:
                    pairs.append((component.similarity_among(items), weight))
                except InputError as error:
                    raise InputError(f"The blend cannot say which items are alike. {error}") from error
        return lambda places: sum((weight * alike(places) for alike, weight in pairs), torch.zeros(()))

    def _alike(self, place: int, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return a component's similarities, 0 where it has none, and a mask of those places: (n, n_items) each."""
        try:
            part = self.components[place].similarity(items).to(self.device)
        except InputError as error:
            raise InputError(f"The blend cannot say which items are alike. {error}") from error
        none = part == -torch.inf  # a model of neighbours has no others
        return part.masked_fill_(none, 0.0), none

    def _similarity_spreads(self) -> dict[int, float]:
        """Return the spread of the similarities of each component with a weight; each is measured once and kept."""
        known = self.alike_spreads
        chosen = torch.linspace(0, self.n_items - 1, min(self.n_items, SPREAD_ITEMS)).long()
        for place, weight in enumerate(self.weights):
            if weight and place not in known:
                variance, at_once = 0.0, max(1, SCORES_IN_MEMORY // self.n_items)
                for start in range(0, len(chosen), at_once):
                    some = chosen[start : start + at_once]
                    part = self._alike(place, some)[0].cpu().double()
                    itself = torch.zeros_like(part, dtype=torch.bool).scatter_(1, some[:, None], True)
                    others = part[~itself].view(len(some), -1)  # without an item's similarity to itself
                    if others.shape[1]:
                        variance += float(others.var(dim=1, correction=0).sum()) / len(chosen)
                known[place] = math.sqrt(variance)
        return known

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and spreads, float64 (n_components,); the components' tensors are in their own folders."""
        return {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("weights", "spreads")}

    def expected(self) -> Mapping[str, Expected]:
        """Return the form of :meth:`tensors`; a spread is above 0."""
        n = len(self.config.options(BlendOptions).components)
        spreads = Expected((n,), torch.float64, low=math.ulp(0.0))
        return {"weights": Expected((n,), torch.float64, low=0), "spreads": spreads}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back the spreads; raise :class:`FormatError` where the configuration has other weights."""
        self.spreads = tensors["spreads"].tolist()
        if tensors["weights"].tolist() != [*self.weights]:
            raise FormatError(f"{RUN} and {WEIGHTS} of the blend have different weights. Blend again.")

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder that holds the components' run folders; whole or not at all."""
        self._need_fit()
        overwrite = flag("overwrite", overwrite)
        with whole_folder(path_of(folder), marker=RUN, overwrite=overwrite) as temporary:
            seals = []
            for place, component in enumerate(self.components):
                home = _home(temporary, place, component.name)
                component.save(home)
                seals.append(_seal(home))
            write_items(temporary, self.items)
            write_weights(temporary, self.tensors(), {**self.facts(), "components": seals})
            write_run(temporary, self.run())
            homes = [_home(Path(), place, component.name) for place, component in enumerate(self.components)]
            seal(temporary, *((home / SEAL).as_posix() for home in homes))

    @classmethod
    def _read(cls, folder: Path, device: str) -> Self:
        """Return the blend of a run folder; raise :class:`FormatError` where it or a component is damaged."""
        blend = super()._read(folder, device)
        names, seals = blend.config.options(BlendOptions).components, (read_facts(folder) or {}).get("components", [])
        if len(names) != len(seals):
            raise FormatError(f"{folder / WEIGHTS} does not fit the blend that {folder / RUN} names. Blend again.")
        components = []
        for place, (name, own) in enumerate(zip(names, seals, strict=True)):
            home = _home(folder, place, name)
            if not home.is_dir():
                raise FormatError(f"{home} is missing. Blend again, or copy the whole folder {folder}.")
            components.append(load(home, device))
            if _seal(home) != own:
                raise FormatError(f"{home} is not the model that was blended into {folder}. Blend again.")
            check(folder, (_home(Path(), place, name) / SEAL).as_posix())
        blend._join(components)
        return blend

    def _join(self, components: Sequence[Recommender]) -> None:
        self.components = tuple(components)
        self.scorers = [component.scores for component in components]
        self.alike_spreads = {}

    @torch.no_grad()
    def _spread(self, place: int, histories: csr_array) -> float:
        """Return the standard deviation of a component's scores around each user's mean, some users at a time."""
        rows = max(1, SCORES_IN_MEMORY // self.n_items)
        variance = 0.0
        for start in range(0, histories.shape[0], rows):
            scores = self.scorers[place](histories[start : start + rows]).cpu().double()
            variance += float(scores.var(dim=1, correction=0).sum()) / histories.shape[0]
        name = f"Model {place + 1} ({self.components[place].name}) of the blend"
        if not math.isfinite(variance):
            raise WorkError(f"{name} cannot be used. {NOT_NUMBERS}")
        if not variance:
            raise InputError(f"{name} scores all items alike for these users. Leave it out.")
        return math.sqrt(variance)


def normalised(weights: Sequence[float], n: int) -> Weights:
    """Return ``n`` weights divided by their sum; raise :class:`InputError` where they cannot be weights."""
    given = items("The weights of a blend", weights)
    try:
        values = tuple(float(weight) for weight in given)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"The weights of a blend are numbers, and not {shown(given)}.") from error
    if len(values) != n:
        raise InputError(f"The blend has {n} models, and was given {len(values)} weights. Give one for each.")
    if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
        listed = ", ".join(f"{value:g}" for value in values)
        raise InputError(f"Weights must be 0 or more, and one above 0; got {listed}.")
    total = math.fsum(values)
    return values if math.isclose(total, 1, rel_tol=1e-12) else tuple(value / total for value in values)


def _not_empty(histories: csr_array, n_items: int) -> csr_array:
    """Return the rows of a CSR that hold clicks; raise :class:`InputError` where there are none, or of other items."""
    matrix = canonical(histories)
    if matrix.shape[1] != n_items:
        raise InputError(f"The histories have {matrix.shape[1]} columns, but the models know {n_items} items.")
    rows = np.flatnonzero(np.diff(matrix.indptr))
    if not len(rows):
        raise InputError("All histories are empty, so the spread of the models' scores cannot be measured on them.")
    return matrix[rows]


def _home(folder: Path, place: int, name: str) -> Path:
    return folder / COMPONENTS / f"{place}-{name}"


def _seal(home: Path) -> dict[str, str]:
    """Return digests of a component's run.json and weights, by which its folder is recognised."""
    return {"run": file_hash(home / RUN), "weights": header_hash(home / WEIGHTS)}
