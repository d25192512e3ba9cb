"""How an option is declared: once, where it is used, with its default, its meaning, its bounds and its search space.

Option sets are frozen dataclasses in the modules that use them; this module needs the standard library only, so that
the numeric modules run where nothing but torch, numpy and scipy is installed. :mod:`recvae.config` turns the same
declarations into checked configuration, and :mod:`recvae.experiments.tune` searches what is declared searchable.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from inspect import Parameter, Signature
from types import NoneType
from typing import Any, Concatenate, Literal, ParamSpec, get_args, get_origin, get_type_hints

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

# What no model needs more of: a file or a slip of the hand that asks for it is refused before memory or hours are lost.
WIDEST, DEEPEST = 65_536, 100


def option(
    default: Any,
    meaning: str,
    *,
    search: Space | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    **bounds: Any,
) -> Any:
    """Declare a dataclass field with its meaning and, for numbers, ``gt``, ``ge``, ``lt`` or ``le`` bounds.

    Of a tuple the bounds are those of its values, and ``max_length`` is how many there may be.

    ``search`` is where ``recvae tune`` looks for better values; without it the option keeps the value it is given.
    Use ``Between(low, high)`` for an int or a float and ``OneOf(a, b, ...)`` for a choice. ``choices`` returns
    the names that a text may be, those of a table of functions: a function that is entered there can be chosen.
    """
    return field(default=default, metadata={"meaning": meaning, "bounds": bounds, "search": search, "choices": choices})


def kind_of(option: "Field[Any]", hints: Mapping[str, Any]) -> Any:
    """Return the type of a field that :func:`option` declared: of one with ``choices``, those names and no others."""
    choices = option.metadata.get("choices")
    return hints[option.name] if choices is None else Literal[tuple(choices())]


# What the declarations say, for people and for editors.


@dataclass(frozen=True)
class Described:
    """An option: ``values`` says in words which ones it takes, such as ``whole number from 1``."""

    name: str
    default: Any
    values: str
    meaning: str
    search: Space | None

    def sentence(self) -> str:
        """Return all but name and default as text."""
        searched = "" if self.search is None else f" Searched: {space_text(self.search)}."
        return f"{self.meaning} {self.values[0].upper()}{self.values[1:]}.{searched}"


def described(defaults: Any) -> list[Described]:
    """Return the options of a set, as it declares them, in order; ``defaults`` is the set whose values are shown."""
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


def _values(annotation: Any, bounds: str) -> str:
    """Return the type of an option, and its range, in words."""
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal:
        return " or ".join(f"'{part}'" for part in parts)
    if get_origin(annotation) is tuple:
        return f"list, each value a {_values(parts[0], bounds)}"
    if len(parts) == 1:  # X | None
        return f"{_values(parts[0], bounds)}, or left out"
    return f"{words[annotation]} {bounds}".rstrip()


def _range(bounds: dict[str, Any]) -> str:
    """Return bounds in words, such as ``from 0 to below 1``."""
    low = next((f"{word} {bounds[key]:g}" for key, word in (("ge", "from"), ("gt", "above")) if key in bounds), "")
    high = next((f"{word}{bounds[key]:g}" for key, word in (("le", ""), ("lt", "below ")) if key in bounds), "")
    return f"{low} to {high}".removeprefix(" ") if high else low


def space_text(space: Space) -> str:
    """Return a space as ``--search`` takes it."""
    if isinstance(space, Between):
        return f"{space.low:g}:{space.high:g}{':log' if space.log else ''}"
    return ",".join(value_text(value) for value in space.values)


def value_text(value: Any) -> str:
    """Return a value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(list(value)) if isinstance(value, tuple) else str(value)


@dataclass(frozen=True, kw_only=True)
class OfEveryModel:
    """The arguments that every model has beside its options."""

    seed: int = option(SEED, "Seed of everything random.")
    device: str = option("auto", "Such as 'cpu', 'cuda' or 'cuda:1'; 'auto' takes a GPU where there is one.")


P = ParamSpec("P")


def takes(arguments: Callable[P, object]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Declare that a model's ``__init__``, which has ``**options`` in its signature, takes those of a dataclass.

    The dataclass joins the model's option sets, those of training and :class:`OfEveryModel` by inheritance, so that
    nothing is declared twice::

        @dataclass(frozen=True, kw_only=True)
        class RecVAEArguments(RecVAEOptions, TrainOptions, OfEveryModel): ...

    Type checkers and the editors that are built on them (Pylance, PyCharm) then complete and check the arguments.
    Editors that look at the running program (Jupyter, IPython) and ``help()`` go by :func:`explain`.
    """

    def declared(method: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        method.arguments = arguments  # type: ignore[attr-defined]  # for the test that compares it with the defaults
        return method

    return declared


def explain(model: type, *defaults: Any) -> None:
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
