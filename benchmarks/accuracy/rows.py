"""The rows of the studies, as rows.toml has them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recvae.experiments.space import parse_search
from recvae.options import Space

SEEDS = (98765, 1, 2, 3, 4)  # of the splits; models are tuned on the first
METRIC = "ndcg@100"  # chooses epochs, options and weights, on validation users
METRICS = ("ndcg@100", "recall@20", "recall@50")
OTHERWISE = "otherwise"  # the key of a row's settings for datasets that it does not name
BASE = "multinomial"  # the row of the family that the others are compared with


@dataclass(frozen=True)
class Row:
    """A line of the tables: a model, the settings of all its runs, and how the best of them is found.

    With ``variants``, each added to the settings of ``config`` in one run, it is the best on validation. Otherwise all
    that the model declares searchable is searched, from the configuration shipped for it, else from its defaults.
    """

    name: str
    model: str
    cost: float = 1.0  # how long a trial takes beside others: the longest search starts first
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "section.key=value", by dataset
    space: Mapping[str, Space] = field(default_factory=dict)  # searched as well
    begin: Mapping[str, Any] = field(default_factory=dict)  # by section.key; stays searched
    vae: bool = False  # one of those that the others are compared with
    title: str = ""  # the model's own where empty
    saved: bool = True  # as a run folder, which a blend needs
    variants: tuple[tuple[str, ...], ...] = ()
    config: str | None = None
    group: str = ""  # the table of a study with several

    def fixed(self, dataset: str) -> tuple[str, ...]:
        """Return the settings of every trial on a dataset."""
        return self.settings.get(dataset, self.settings.get(OTHERWISE, ()))


@dataclass(frozen=True)
class BlendRow:
    """A weighted sum of rows' scores, its weights chosen on the first split's validation users."""

    name: str
    rows: tuple[str, ...]
    title: str = "Blend"
    paper: str = ""


def _row(name: str, settings: Any = (), search: tuple[str, ...] = (), variants: Any = (), **more: Any) -> Row:
    fixed = settings if isinstance(settings, dict) else {OTHERWISE: settings}
    return Row(
        name,
        settings={dataset: tuple(values) for dataset, values in fixed.items()},
        space=dict(map(parse_search, search)),
        variants=tuple(map(tuple, variants)),
        **{"model": name, **more, "config": more.get("config") or None},
    )


_tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_changed = {"model": "mult-vae", "config": "ml-1m-mult-vae", "variants": [[]], "saved": False}  # "" is no configuration
ROWS = tuple(_row(**row) for row in _tables["study"])
BLENDS = tuple(BlendRow(**{**row, "rows": tuple(row["rows"])}) for row in _tables["blend"])
FAMILY = tuple(_row(**{**_changed, **row}) for row in _tables["family"])
