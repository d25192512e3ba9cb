"""How an option is declared: once, with its default, its meaning, its bounds and its search space.

A model's option set is a frozen dataclass in the model's module; the options of training are here. This module needs
the standard library only, so that the numeric modules run where nothing but torch, numpy and scipy is installed.
:mod:`recvae.config` turns the same declarations into checked configuration, and :mod:`recvae.experiments.tune`
searches the options that declare a search space.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from inspect import Parameter, Signature
from types import NoneType
from typing import Any, ClassVar, Concatenate, Literal, ParamSpec, Protocol, get_args, get_origin, get_type_hints

SEED = 98765  # the papers' seed; one for everything


@dataclass(frozen=True)
class Between:
    """Search a whole or real number from ``low`` to ``high``, both included; ``log`` spreads it by magnitude."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneOf:
    """Search one of ``values``: ``OneOf(32, 64, 128)``."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


Space = Between | OneOf

# The largest width and depth of a network: a larger one, in a damaged file or by a mistyped digit, is refused at once.
WIDEST, DEEPEST = 65_536, 100


def option(
    default: object,
    meaning: str,
    *,
    search: Space | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    **bounds: float,
) -> Any:
    """Declare a dataclass field with its meaning and, for numbers, ``gt``, ``ge``, ``lt`` or ``le`` bounds.

    The bounds of a tuple hold for each of its values, and ``max_length`` is the largest number of values. ``search`` is
    the space in which ``recvae tune`` searches, ``Between(low, high)`` for a number or ``OneOf(a, b, ...)`` for a
    choice; an option without it is never searched. ``choices`` returns the names that a text option may have, the keys
    of a table of functions: a function that is added to the table can be chosen.
    """
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds, "search": search, "choices": choices})


class OptionSet(Protocol):
    """A frozen dataclass whose fields are options."""

    __dataclass_fields__: ClassVar[dict[str, "Field[Any]"]]


def kind_of(option: "Field[Any]", hints: Mapping[str, object]) -> object:
    """Return the type of a field that :func:`option` declared: the literal names of a field with ``choices``."""
    choices = option.metadata.get("choices")
    return hints[option.name] if choices is None else Literal[tuple(choices())]


# The declarations as text, for people and for editors.


@dataclass(frozen=True)
class Described:
    """An option in words: ``values`` is the kind of value that it takes, such as ``whole number from 1``."""

    name: str
    default: object
    values: str
    meaning: str
    search: Space | None

    def sentence(self) -> str:
        """Return meaning, values and search space as text."""
        searched = "" if self.search is None else f" Searched: {space_text(self.search)}."
        return f"{self.meaning} {self.values[0].upper()}{self.values[1:]}.{searched}"


def described(defaults: OptionSet) -> list[Described]:
    """Return the options of a set in the order of their declaration, with the values in ``defaults``."""
    kind = type(defaults)
    hints = get_type_hints(kind)
    return [
        Described(
            name=f.name,
            default=getattr(defaults, f.name),
            values=_values(kind_of(f, hints), _range(f.metadata.get("bounds", {}))),
            meaning=f.metadata.get("meaning", ""),
            search=f.metadata.get("search"),
        )
        for f in fields(kind)
    ]


def _values(annotation: object, bounds: str) -> str:
    """Return the type of an option, and its range, in words."""
    words: dict[object, str] = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return " or ".join(f"'{part}'" for part in parts)
    if get_origin(annotation) is tuple:
        return f"list, each value a {_values(parts[0], bounds)}"
    if len(parts) == 1:  # X | None
        return f"{_values(parts[0], bounds)}, or left out"
    return f"{words[annotation]} {bounds}".rstrip()


def _range(bounds: Mapping[str, float]) -> str:
    """Return bounds in words, such as ``from 0 to below 1``."""
    low = next((f"{word} {bounds[key]:g}" for key, word in (("ge", "from"), ("gt", "above")) if key in bounds), "")
    high = next((f"{word}{bounds[key]:g}" for key, word in (("le", ""), ("lt", "below ")) if key in bounds), "")
    return f"{low} to {high}".removeprefix(" ") if high else low


def space_text(space: Space) -> str:
    """Return a space as ``--search`` takes it."""
    if isinstance(space, Between):
        return f"{space.low:g}:{space.high:g}{':log' if space.log else ''}"
    return ",".join(value_text(value) for value in space.values)


def value_text(value: object) -> str:
    """Return a value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a network is trained; the defaults are those that both papers share."""

    epochs: int = option(200, "Number of epochs.", ge=1)
    batch_size: int = option(500, "Users per update.", search=OneOf(50, 100, 200, 500), ge=1)
    learning_rate: float = option(1e-3, "Adam's step size.", search=Between(1e-4, 3e-3, log=True), gt=0)
    adam_beta2: float = option(0.999, "Adam's decay of the second moment.", ge=0, lt=1)
    drop_last: bool = option(False, "Leave out an epoch's last batch where it is not full.")
    precision: Literal["float32", "tf32", "bf16"] = option(
        "float32",
        "Of matrix products in training: 'float32', 'tf32' (CUDA devices), or 'bf16', operands rounded to bfloat16.",
    )
    patience: int = option(
        0, "Stop after this many validations in a row without a new best; 0 never stops early.", ge=0
    )
    validate_every: int = option(1, "Epochs between validations (the last epoch always has one).", ge=1)
    decay: Literal["constant", "cosine"] = option(
        "constant", "The learning rate: constant, or falling to 0 along half a cosine over all epochs."
    )
    average: float = option(
        0.0,
        "Where above 0, the weights validated and kept are a running average over epochs with this decay an epoch.",
        ge=0,
        lt=1,
    )
    checkpoint_every: int = option(
        0, "With torchrun: updates between two states within an epoch, 0 for one after each epoch only.", ge=0
    )
    stop_after: int = option(
        0, "Stop after this many epochs, while schedules go on as for 'epochs'; 0 goes through all of them.", ge=0
    )


@dataclass(frozen=True, kw_only=True)
class OfEveryModel:
    """The arguments that every model has beside its options."""

    seed: int = option(SEED, "Seed of everything random.")
    device: str = option("auto", "Such as 'cpu', 'cuda' or 'cuda:1'; 'auto' takes a GPU where there is one.")


P = ParamSpec("P")


def takes(arguments: Callable[P, object]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Declare that a model's ``__init__``, whose signature has ``**options``, takes the fields of a dataclass.

    The dataclass joins the model's option sets, those of training and :class:`OfEveryModel` by inheritance, so that
    nothing is declared twice::

        @dataclass(frozen=True, kw_only=True)
        class RecVAEArguments(RecVAEOptions, TrainOptions, OfEveryModel): ...

    Type checkers and the editors that are built on them (Pylance, PyCharm) then complete and check the arguments.
    Editors that look at the running program (Jupyter, IPython) and ``help()`` show the signature that :func:`explain`
    sets.
    """

    def declared(method: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        method.arguments = arguments  # type: ignore[attr-defined]  # for the test that compares it with the defaults
        return method

    return declared


def explain(model: type, *defaults: OptionSet) -> None:
    """Give a class whose options are keyword arguments the signature and the documentation that the sets declare."""
    options = [(type(of), each) for of in (*defaults, OfEveryModel()) for each in described(of)]
    hints = {kind: get_type_hints(kind) for kind, _ in options}
    model.__signature__ = Signature(  # type: ignore[attr-defined]  # inspect.signature goes by it
        [
            Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[kind][each.name])
            for kind, each in options
        ]
    )
    lines = [f"    {each.name} = {each.default!r}\n        {each.sentence()}" for _, each in options]
    head = [(model.__doc__ or "").rstrip(), "", "    Options, as keyword arguments:", ""]
    model.__doc__ = "\n".join([*head, *lines, ""])
