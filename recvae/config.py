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
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from recvae.arguments import shown
from recvae.defaults import Size
from recvae.errors import ConfigError, InputError, did_you_mean
from recvae.files import Document, JsonObject
from recvae.options import SEED, OptionSet, TrainOptions, kind_of

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

Options = TypeVar("Options", bound=OptionSet)
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class RunConfig:
    """A model's name, its options, those of its training (None for a model without epochs) and the run's seed.

    ``open`` names, as ``section.key``, the options that nobody set and whose default follows the data
    (:mod:`recvae.defaults`). :meth:`for_data` gives them their values; until then they hold the papers' values.
    """

    name: str
    model: OptionSet
    train: TrainOptions | None
    seed: int = SEED
    open: frozenset[str] = frozenset()

    def options(self, kind: type[Kind]) -> Kind:
        """Return the option set, of the model or of training, of the class ``kind``; raise TypeError without one."""
        for options in (self.model, self.train):
            if isinstance(options, kind):
                return options
        raise TypeError(f"A configuration of '{self.name}' has no {kind.__name__}.")

    def to_dict(self) -> JsonObject:
        """Return plain values, in the shape of the TOML files; options that are open are left out, and stay open."""
        values: JsonObject = {"name": self.name, "seed": self.seed}
        for section, options in (("model", self.model), ("train", self.train)):
            if options is not None:
                given = asdict(options).items()
                values[section] = {key: value for key, value in given if f"{section}.{key}" not in self.open}
        return values

    def for_data(self, size: Size) -> "RunConfig":
        """Return the configuration with the values that the open options have for a training matrix of this size."""
        from recvae.registry import entry

        if not self.open:
            return self
        rule = entry(self.name).model_class().follows
        found: dict[str, JsonObject] = {"model": {}, "train": {}}
        for key in self.open:
            section, _, option = key.partition(".")
            found[section][option] = rule[key](size)
        model = replace(self.model, **found["model"])
        train = None if self.train is None else replace(self.train, **found["train"])
        return replace(self, model=model, train=train, open=frozenset())

    def following(self, size: Size) -> str:
        """Return the open options with their values for this size, in the model's order; '' where none is open."""
        from recvae.registry import entry

        made = self.for_data(size)
        keys = [key for key in entry(self.name).model_class().follows if key in self.open]
        return " ".join(f"{key.partition('.')[2]}={value_of(made, key)}" for key in keys)


def run_config(values: Document) -> RunConfig:
    """Return the configuration that ``values``, in the shape of the TOML files, describes.

    Raises :class:`ConfigError` listing all unknown keys and all values that are out of range.
    """
    from recvae.registry import entry

    values = dict(values)
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError("A configuration needs a model's name, such as name = 'recvae'.")
    kind = entry(name).model_class()
    seed = _plain(values.pop("seed", SEED))
    mistakes = []
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        mistakes.append(f"seed: must be a whole number from 0 to 2^32 - 1, got {shown(seed)}")
    model, train = kind.model_defaults, kind.train_defaults
    is_open = set(kind.follows)
    for section in ("model", "train"):
        given = values.pop(section, {})
        if not isinstance(given, Mapping):
            mistakes.append(f"{section}: must be a table of options, got {shown(given)}")
            continue
        if section == "model":
            model, wrong = _checked(model, given, section)
        elif train is not None:
            train, wrong = _checked(train, given, section)
        else:
            wrong = [f"{section}: {name} is not trained by epochs and has no such options"] if given else []
        mistakes += wrong
        is_open -= {f"{section}.{key}" for key in given}
    mistakes += [_unknown(key, key, ["name", "seed", "model", "train"]) for key in values]
    _refuse(mistakes)
    return RunConfig(name, model, train, seed, frozenset(is_open))


def resolve(
    model: str | None = None, config: str | None = None, settings: Iterable[str] = (), seed: int | None = None
) -> RunConfig:
    """Return the configuration that the command line's arguments describe.

    ``config`` is a shipped configuration's name or a file; ``settings`` are ``section.key=value`` strings, values as in
    TOML (a bare word is taken as a string); ``seed`` wins over both.
    """
    settings = list(settings)
    if config is None or not Path(config).is_file():
        return _resolved(model, config, settings, seed)
    try:
        return _resolved(model, config, settings, seed)
    except InputError as error:
        if config in str(error) or _is_right(config):
            raise
        raise type(error)(f"{config}: {error}") from error


def _is_right(config: str) -> bool:
    """Return whether a configuration's file has no mistake of its own."""
    try:
        _resolved(None, config, [], None)
    except InputError:
        return False
    return True


def _resolved(model: str | None, config: str | None, settings: Iterable[str], seed: int | None) -> RunConfig:
    values: JsonObject = load_toml(find(config)) if config is not None else {}
    if config is not None and not values:
        raise ConfigError(f"{find(config)} is empty. It needs a model's name, such as name = 'recvae'.")
    values.pop("for", None)  # the data on which the settings were found: itself no setting
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


def load_toml(path: Path) -> JsonObject:
    """Read a TOML file; raise :class:`InputError` where it is missing and :class:`ConfigError` where it is not TOML."""
    try:
        return from_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error


def from_toml(text: str) -> JsonObject:
    """Return the table of TOML text; raise ValueError, also for deep nesting and numbers too long to be read."""
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


def shipped_for(manifest: Document, model: str) -> str | None:
    """Return the name of the shipped configuration that was found on a prepared dataset, None where there is none.

    The name of the dataset's folder does not count. The numbers of users, items and clicks before the split must be
    those in the configuration's table ``for``, and so must the source of a dataset that this project can download.
    """
    before, source = manifest.get("before_split", {}), manifest.get("source", {})
    for name, path in shipped().items():
        if not name.endswith(f"-{model}"):  # the other files need not be read
            continue
        values = load_toml(path)
        found_on = dict(values.get("for", {}))
        place = found_on.pop("source", None)
        known = source.get("kind") in ("release", "synthetic")
        if (
            values.get("name") == model
            and found_on
            and all(before.get(key) == count for key, count in found_on.items())
            and (not known or place in (None, source.get("name")))
        ):
            return name
    return None


def value_of(config: RunConfig, key: str) -> Any:
    """Return the value of the option ``section.key``."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def _set(values: JsonObject, setting: str) -> None:
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


def _checked(defaults: Options, values: Document, section: str) -> tuple[Options, list[str]]:
    """Return the option set with ``values`` put in, and the mistakes in them; with a mistake, the defaults."""
    from pydantic import ValidationError

    kind = type(defaults)
    try:
        given = {key: _listed(kind, key, _plain(value)) for key, value in values.items()}
        made = _schema(kind).model_validate({**asdict(defaults), **given})
    except ValidationError as error:
        return defaults, [_mistake(kind, e, section) for e in error.errors()]
    return replace(defaults, **{f.name: getattr(made, f.name) for f in fields(kind)}), []


def _plain(value: Any) -> Any:
    """Return a NumPy scalar as Python's own number."""
    numpy_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if numpy_scalar else value


def _listed(kind: type[OptionSet], key: str, value: object) -> object:
    """Return a single value as a list of one, where the option is a list: ``model.hidden=600`` means ``[600]``."""
    single = isinstance(value, str | int | float) and not isinstance(value, bool)
    return [value] if single and _is_list(kind, key) else value


def _is_list(kind: type[OptionSet], key: str) -> bool:
    return get_origin(get_type_hints(kind).get(key)) is tuple


def _schema(kind: type[OptionSet]) -> "type[BaseModel]":
    """Return a pydantic model with the fields, bounds and meanings of an option dataclass."""
    hints = get_type_hints(kind)
    kinds = tuple(kind_of(f, hints) for f in fields(kind))  # not cached: a name may have been added to the choices
    return _made_once(kind, kinds)


@cache
def _made_once(kind: type[OptionSet], annotations: tuple[object, ...]) -> "type[BaseModel]":
    from pydantic import ConfigDict, Field, create_model

    declared: JsonObject = {}
    for f, annotation in zip(fields(kind), annotations, strict=True):
        bounds = dict(f.metadata.get("bounds", {}))
        if get_origin(annotation) is tuple:  # TOML has lists; the bounds are those of the elements
            longest = bounds.pop("max_length", None)
            annotation = tuple[Annotated[get_args(annotation)[0], Field(strict=True, **bounds)], ...]  # type: ignore[misc]  # bounds are known at run time alone
            bounds = {"strict": False, "max_length": longest}
        elif annotation is int:
            bounds.setdefault("le", 2**63 - 1)  # the largest number of NumPy and PyTorch
        assert f.default is not MISSING
        declared[f.name] = (annotation, Field(f.default, description=f.metadata.get("meaning"), **bounds))
    config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(kind.__name__, __config__=config, **declared)


def _mistake(kind: type[OptionSet], error: "ErrorDetails", section: str) -> str:
    """Return one mistake as a line that names the option."""
    key = str(error["loc"][0])
    name = f"{section}.{key}" if section else key
    if error["type"] == "extra_forbidden":
        return _unknown(name, key, [f.name for f in fields(kind)])
    if error["type"] == "too_long":
        most, here = error["ctx"]["max_length"], error["ctx"]["actual_length"]
        return f"{name}: may have {most} values, and has {here}"
    reason = error["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    if _is_list(kind, key):
        default = next(f.default for f in fields(kind) if f.name == key)
        example = f" such as {list(default)}" if isinstance(default, tuple) and default else ""
        reason = f"a list{example}" + ("" if error["type"] == "tuple_type" else f", each value {reason}")
    return f"{name}: must be {reason}, got {shown(error['input'])}"


def _unknown(name: str, key: str, known: list[str]) -> str:
    """Return the line for an unknown key, with the nearest known one."""
    near = did_you_mean(key, known)
    return f"{name}: unknown option.{near}" if near else f"{name}: unknown option, not among {', '.join(known)}"


def _refuse(mistakes: list[str]) -> None:
    """Raise one :class:`ConfigError` for all mistakes."""
    mistakes = list(dict.fromkeys(mistakes))  # a list may have the same mistake in many places
    if len(mistakes) == 1:
        raise ConfigError(f"Wrong configuration: {mistakes[0]}{'' if mistakes[0].endswith('?') else '.'}")
    if mistakes:
        lines = "".join(f"\n  {mistake}" for mistake in mistakes)
        raise ConfigError(f"Wrong configuration, {len(mistakes)} mistakes:{lines}")
