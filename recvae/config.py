"""Checked configuration: from TOML files and ``section.key=value`` settings to frozen option sets.

Options are declared once, where they are used (:mod:`recvae.options`); this module turns the declarations into pydantic
models, so that every mistake in a configuration is reported at once, by its name, before any work starts.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, ValidationError, create_model

from recvae.errors import ConfigError, InputError, did_you_mean

Options = TypeVar("Options")

LONGEST_SHOWN = 100  # characters of a wrong value in a sentence
SEED = 98765  # the papers' seed; one for everything


@dataclass(frozen=True)
class RunConfig:
    """A model's name, its options, how it is trained (None for models without epochs) and the run's one seed."""

    name: str
    model: Any
    train: Any
    seed: int = SEED

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, in the shape of the TOML files."""
        sections = {"name": self.name, "seed": self.seed, "model": asdict(self.model)}
        return sections if self.train is None else {**sections, "train": asdict(self.train)}


def run_config(values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that ``values``, in the shape of the TOML files, describes.

    Raises :class:`ConfigError` listing all unknown keys and all values that are out of range.
    """
    from recvae.registry import entry

    values = dict(values)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("A configuration needs a model's name, such as name = 'recvae'.")
    kind = entry(name).recommender()
    seed = _plain(values.pop("seed", SEED))
    mistakes = []
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        mistakes.append(f"seed: must be a whole number from 0 to 2^32 - 1, got {shown(seed)}")
    made = {}
    for section, defaults in (("model", kind.model_defaults), ("train", kind.train_defaults)):
        given = values.pop(section, {})
        if not isinstance(given, Mapping):
            mistakes.append(f"{section}: must be a table of options, got {shown(given)}")
        elif defaults is not None:
            made[section], wrong = _checked(defaults, given, section)
            mistakes += wrong
        elif given:
            mistakes.append(f"{section}: {name} is not trained by epochs and has no such options")
    mistakes += [_unknown(key, key, ["name", "seed", "model", "train"]) for key in values]
    _refuse(mistakes)
    return RunConfig(name, made["model"], made.get("train"), seed)


def resolve(
    model: str | None = None, config: str | None = None, settings: Iterable[str] = (), seed: int | None = None
) -> RunConfig:
    """Return the configuration that the command line's arguments describe.

    ``config`` is a shipped configuration's name or a file; ``settings`` are ``section.key=value`` strings, values as in
    TOML (a bare word is taken as a string); ``seed`` wins over both.
    """
    values: dict[str, Any] = load_toml(find(config)) if config is not None else {}
    if model is not None:
        if values.get("name", model) != model:
            raise ConfigError(f"The configuration {config} is for '{values['name']}', not for '{model}'.")
        values["name"] = model
    if not values:
        raise ConfigError("Name a model with --model, or a configuration with --config.")
    for setting in settings:
        _set(values, setting)
    if seed is not None:
        values["seed"] = seed
    return run_config(values)


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise :class:`InputError` where it is missing and :class:`ConfigError` where it is not TOML."""
    try:
        return from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error


def from_toml(text: str) -> dict[str, Any]:
    """Return what TOML text holds; raise ValueError, also where it is too deep or has a number too long to be read."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python reads no number of more digits than sys.get_int_max_str_digits()
        raise ValueError("a number in it has too many digits") from None


def find(name: str) -> Path:
    """Return the path of a configuration: a file, or the name of a shipped one such as ``ml-20m-recvae``."""
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    known = shipped()
    if name not in known:
        near = did_you_mean(name, known)
        raise InputError(f"No file and no shipped configuration is called '{name}'.{near} Known: {', '.join(known)}.")
    return known[name]


@cache
def shipped() -> dict[str, Path]:
    """Return the shipped configurations by name: beside the packages in a clone, under share/ once installed."""
    clone = Path(__file__).resolve().parent.parent / "configs"
    found = list(clone.glob("*.toml"))
    if not found:
        files = metadata.files("recvae") or []
        found = [Path(str(f.locate())) for f in files if f.parts[-4:-1] == ("share", "recvae", "configs")]
    return {path.stem: path for path in sorted(found)}


def _set(values: dict[str, Any], setting: str) -> None:
    """Put one ``section.key=value`` into ``values``."""
    key, equals, text = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > 2:
        raise ConfigError(f"--set needs the form section.key=value, such as train.epochs=50; got '{setting}'.")
    try:
        value = from_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except ValueError as error:
        raise ConfigError(f"--set {key.strip()} cannot be read: {error}.") from error
    if len(parts) == 1:
        values[parts[0]] = value
        return
    table = values.setdefault(parts[0], {})
    if not isinstance(table, dict):
        raise ConfigError(f"'{parts[0]}' is not a section; --set cannot put '{key}' into it.")
    table[parts[1]] = value


def _checked(defaults: Options, values: Mapping[str, Any], section: str) -> tuple[Options, list[str]]:
    """Return the option set and the mistakes; the set is the defaults where there are any."""
    kind: Any = type(defaults)
    try:
        given = {key: _plain(value) for key, value in values.items()}
        made = _schema(kind).model_validate({**asdict(defaults), **given})  # type: ignore[call-overload]
    except ValidationError as error:
        return defaults, [_mistake(kind, e, section) for e in error.errors()]
    return replace(defaults, **{f.name: getattr(made, f.name) for f in fields(kind)}), []  # type: ignore[type-var]


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own number."""
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value


@cache
def _schema(kind: type[Any]) -> Any:
    """Return a pydantic model with the fields, bounds and meanings of an option dataclass."""
    hints = get_type_hints(kind)
    declared: dict[str, Any] = {}
    for f in fields(kind):
        bounds = dict(f.metadata.get("bounds", {}))
        annotation = hints[f.name]
        if get_origin(annotation) is tuple:  # TOML has lists; the bounds are those of the elements
            longest = bounds.pop("max_length", None)
            annotation = tuple[Annotated[get_args(annotation)[0], Field(strict=True, **bounds)], ...]  # type: ignore[misc]
            bounds = {"strict": False, "max_length": longest}
        elif annotation is int:
            bounds.setdefault("le", 2**63 - 1)  # what NumPy and PyTorch hold
        assert f.default is not MISSING
        declared[f.name] = (annotation, Field(f.default, description=f.metadata.get("meaning"), **bounds))
    config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(kind.__name__, __config__=config, **declared)


def _mistake(kind: type[Any], error: Any, section: str) -> str:
    """Return one mistake as a line that names the option."""
    key = str(error["loc"][0])
    name = f"{section}.{key}" if section else key
    if error["type"] == "extra_forbidden":
        return _unknown(name, key, [f.name for f in fields(kind)])
    if error["type"] == "too_long":
        most, here = error["ctx"]["max_length"], error["ctx"]["actual_length"]
        return f"{name}: may have {most} values, and has {here}"
    reason = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{name}: must be {reason}, got {shown(error['input'])}"


def shown(value: object) -> str:
    """Return a value for a sentence, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of very many digits, or a list in a list in a list
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def _unknown(name: str, key: str, known: list[str]) -> str:
    """Return the line for a key that there is not, with the nearest one that there is."""
    near = did_you_mean(key, known)
    return f"{name}: unknown option.{near}" if near else f"{name}: unknown option, not among {', '.join(known)}"


def _refuse(mistakes: list[str]) -> None:
    """Raise one :class:`ConfigError` for all mistakes."""
    if len(mistakes) == 1:
        raise ConfigError(f"Wrong configuration: {mistakes[0]}{'' if mistakes[0].endswith('?') else '.'}")
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise ConfigError(f"Wrong configuration, {len(mistakes)} mistakes:{lines}")
