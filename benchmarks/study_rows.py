"""What the accuracy study compares: edit here. The rest of the study follows from these tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recvae.options import Between, OneOf, Space

SEEDS = (98765, 1, 2, 3, 4)  # of the splits; models are tuned on the first
METRIC = "ndcg@100"  # chooses epochs, options and weights, on validation users
METRICS = ("ndcg@100", "recall@20", "recall@50")
OTHERWISE = ""  # the key of a row's settings for datasets that it does not name


@dataclass(frozen=True)
class Row:
    """A line of the tables: a model, what is fixed for it, and what is searched beside what it declares searchable.

    The search starts from the configuration that is shipped for the dataset and the model, else from the defaults with
    ``begin``. ``settings`` are fixed in every trial, by the dataset's name.
    """

    name: str
    model: str
    cost: float  # how long a trial takes beside others: the longest search starts first
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # "section.key=value", as --set takes them
    space: Mapping[str, Space] = field(default_factory=dict)
    begin: Mapping[str, Any] = field(default_factory=dict)  # by section.key; stays searched
    vae: bool = False  # one of those that the others are compared with
    title: str = ""  # the model's own where empty
    paper: str = ""
    saved: bool = True  # as a run folder

    def fixed(self, dataset: str) -> tuple[str, ...]:
        """Return the settings of every trial on a dataset."""
        return self.settings.get(dataset, self.settings.get(OTHERWISE, ()))


@dataclass(frozen=True)
class BlendRow:
    """A weighted sum of rows' scores, its weights chosen on the first split's validation users."""

    name: str
    rows: tuple[str, ...]
    title: str = "Blend"
    paper: str = "Fox and Shaw, TREC-2, 1994"


AVERAGE = ("train.average=0.7", "train.patience=0")  # for every network
STEADY = ("train.decay=cosine", *AVERAGE)
RECVAE = {
    "ml-1m": ("train.epochs=40", "train.batch_size=100", "model.hidden=600", *STEADY),
    OTHERWISE: ("train.epochs=60", "train.batch_size=50", *STEADY),
}
WITH_PATH = {  # more to search in the path, so less in the deep part
    "ml-1m": (*RECVAE["ml-1m"], "model.layers=5", "model.latent=200"),
    OTHERWISE: (*RECVAE[OTHERWISE], "model.hidden=300", "model.layers=2"),
}
MULT_DAE = {
    "ml-1m": ("train.epochs=100", "train.batch_size=100", *AVERAGE),
    OTHERWISE: ("train.epochs=150", "train.batch_size=50", *AVERAGE),
}
MULT_VAE = {dataset: (*settings, "model.anneal=share") for dataset, settings in MULT_DAE.items()}
RATE = {"train.learning_rate": Between(3e-4, 2e-3, log=True)}
LONG = {"train.learning_rate": Between(5e-4, 3e-3, log=True), "train.decay": OneOf("constant", "cosine")}

ROWS = (
    Row("recvae-edlae", "recvae-edlae", 140, WITH_PATH, RATE, vae=True),
    Row("recvae", "recvae", 130, RECVAE, RATE, vae=True),
    Row("mult-vae", "mult-vae", 50, MULT_VAE, {**LONG, "model.latent": OneOf(50, 100, 200, 300, 400)}, vae=True),
    Row("mult-dae", "mult-dae", 20, MULT_DAE, LONG),
    Row("implicit-als", "implicit-als", 12),
    Row(
        "irspack-ials",
        "irspack-ials",
        11,
        begin={"model.n_components": 256, "model.alpha0": 0.2, "model.reg": 0.01},
        saved=False,
    ),
    Row("edlae", "edlae", 3),
    Row("ease", "ease", 3),
    Row("item-knn", "item-knn", 2),
    Row("popularity", "popularity", 1),
)

BLENDS = (
    BlendRow(
        "blend",
        ("recvae-edlae", "recvae", "mult-dae", "implicit-als"),
    ),
)
