"""The models and baselines by name. Registered here once, a model gets the command line, the tests and the tables."""

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from typing import ClassVar, Protocol, TypeVar, cast

from recvae.arguments import shown
from recvae.defaults import Rule
from recvae.errors import InputError, did_you_mean
from recvae.options import OptionSet, TrainOptions


class Declared(Protocol):
    """The part of a model's class that is known without a model: option sets with their defaults, and capabilities.

    The capabilities are those of :class:`recvae.capabilities.Capabilities`.
    """

    name: ClassVar[str]
    model_defaults: ClassVar[OptionSet]
    train_defaults: ClassVar[TrainOptions | None]
    follows: ClassVar[Rule]
    contends: ClassVar[bool]
    introduced: ClassVar[bool]
    in_parts: ClassVar[bool]
    task: ClassVar[tuple[str, ...]]

    @classmethod
    def reads(cls, options: OptionSet) -> tuple[str, ...]:
        """Return the parts of a dataset, beside its clicks, that a model with these options takes its inputs from."""


Kind = TypeVar("Kind")  # a user's class declares model_defaults as an instance of its own options: no common bound


@dataclass(frozen=True)
class Entry:
    """A model's name, its class, its title in tables, and its paper."""

    name: str
    home: str  # module:class, imported on first use: only ImplicitALS needs implicit
    title: str
    paper: str
    kind: type[Declared] | None = field(default=None, compare=False)  # of a class that was registered in this process

    def model_class(self) -> type[Declared]:
        """Import and return the model's class, a :class:`recvae.recommender.Recommender`."""
        module, _, name = self.home.partition(":")
        if self.kind is not None:
            return self.kind
        try:
            kind: type[Declared] = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise InputError(f"The model '{self.name}' cannot be loaded from {self.home}: {error}.") from error
        if kind.name != self.name:
            raise InputError(f"{self.home} is called '{kind.name}', and is registered as '{self.name}'. Use one name.")
        return kind


MODELS = {
    entry.name: entry
    for entry in (
        Entry("recvae", "recvae.models.recvae:RecVAE", "RecVAE", "Shenbin et al., WSDM 2020, arXiv 1912.11160"),
        Entry(
            "recvae-edlae",
            "recvae.models.recvae_edlae:RecVAEEDLAE",
            "RecVAE + EDLAE",
            "after VASP, Vančura and Kordík, ICANN 2021, arXiv 2102.05774",
        ),
        Entry("mult-vae", "recvae.models.mult:MultVAE", "Mult-VAE", "Liang et al., WWW 2018, arXiv 1802.05814"),
        Entry(
            "conditional-vae",
            "recvae.models.conditional:ConditionalVAE",
            "Conditional VAE",
            "Sohn et al., NeurIPS 2015; Carraro et al. 2020, arXiv 2004.11141",
        ),
        Entry("vamp-vae", "recvae.models.vamp:VampVAE", "VampPrior VAE", "Kim and Suh, RecSys 2019, arXiv 1911.00936"),
        Entry(
            "vaeac", "recvae.models.vaeac:VAEAC", "VAEAC", "Ivanov, Figurnov and Vetrov, ICLR 2019, arXiv 1806.02382"
        ),
        Entry("mult-dae", "recvae.models.mult:MultDAE", "Mult-DAE", "Liang et al., WWW 2018, arXiv 1802.05814"),
        Entry("ease", "recvae.baselines.ease:EASE", "EASE", "Steck, WWW 2019, arXiv 1905.03375"),
        Entry("edlae", "recvae.baselines.edlae:EDLAE", "EDLAE", "Steck, NeurIPS 2020"),
        Entry(
            "implicit-als",
            "recvae.baselines.als:ImplicitALS",
            "implicit ALS",
            "Hu, Koren and Volinsky, ICDM 2008; the implicit library",
        ),
        Entry(
            "item-knn",
            "recvae.baselines.item_knn:ItemKNN",
            "item-kNN",
            "Sarwar et al., WWW 2001; Deshpande and Karypis, ACM TOIS 2004",
        ),
        Entry("popularity", "recvae.baselines.popularity:Popularity", "Popularity", "number of clicks of each item"),
    )
}

# Models that are made of trained models: they load and rank like any model, and cannot be fitted.
JOINED = {"blend": Entry("blend", "recvae.models.blend:Blend", "Blend", "a weighted sum of trained models' scores")}


GROUP = "recvae.models"
"""The entry point group in which an installed package names its models: ``its-name = its_package.module:ItsClass``."""

_REGISTERED: dict[str, Entry] = {}


def register(kind: type[Kind], *, title: str = "", paper: str = "") -> type[Kind]:
    """Enter a model class under its ``name`` in this process, and return the class: it can be used as a decorator.

    ``kind`` is a subclass of :class:`recvae.recommender.Recommender`; ``title`` and ``paper`` are for tables. Raises
    :class:`InputError` where another class has the name. A package does the same without a call, by an entry point of
    the group :data:`GROUP`.
    """
    if not isinstance(kind, type) or not isinstance(getattr(kind, "name", None), str) or not hasattr(kind, "scores"):
        raise InputError(f"register takes a subclass of recvae.Recommender that has a name, and not {shown(kind)}.")
    declared = cast("type[Declared]", kind)
    home = f"{kind.__module__}:{kind.__qualname__}"
    other = models().get(declared.name)
    if declared.name in JOINED or (other is not None and other.home != home):
        raise InputError(f"There is a model '{declared.name}' already. Give {kind.__qualname__} another name.")
    _REGISTERED[declared.name] = Entry(declared.name, home, title or kind.__name__, paper, declared)
    return kind


def models() -> dict[str, Entry]:
    """Return all models that can be trained, by name: this project's, installed packages' and registered ones."""
    return {**MODELS, **_installed(), **_REGISTERED}


@cache
def _installed() -> dict[str, Entry]:
    """Return the models that installed packages name; their classes are imported on first use."""
    found = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name not in MODELS and point.name not in JOINED:  # this project's models cannot be replaced
            package = point.dist.name if point.dist else point.module
            found[point.name] = Entry(point.name, point.value, point.attr, f"from the package {package}")
    return found


def entry(name: str) -> Entry:
    """Return the entry of a model's name; raise :class:`InputError` with the nearest name where there is none."""
    for known in (MODELS, JOINED):  # first: nothing needs to look at installed packages for these
        if name in known:
            return known[name]
    known = models()
    if name not in known:
        raise InputError(f"There is no model '{name}'.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def adopt(entry: Entry) -> None:
    """Make a model known in this process that was made known in the one that started it."""
    if entry.name not in models() and entry.name not in JOINED:
        _REGISTERED[entry.name] = entry


HOMES = {name: module for module, _, name in (e.home.partition(":") for e in (*MODELS.values(), *JOINED.values()))}
"""The module of each model's class, by the class's name."""
