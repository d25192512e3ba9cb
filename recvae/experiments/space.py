"""The plan of a search: its starting points, the options that it changes, and their ranges.

Most options that are worth a search say so where they are declared (:mod:`recvae.options`); a :class:`Plan` puts them
together with what the user fixed or searches otherwise, checked like any configuration before any work starts.
"""

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from recvae.config import RunConfig, from_toml, resolve, run_config, shipped_for, value_of
from recvae.defaults import Size
from recvae.errors import ConfigError
from recvae.files import Document, JsonObject
from recvae.options import Between, OneOf, Space
from recvae.registry import entry

FORM = "KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C, such as model.l2=10:1000:log"


@dataclass(frozen=True)
class Plan:
    """A search for one model.

    ``starts`` are whole configurations that are tried first, with where each comes from; everything that ``space`` does
    not name stays as in the first of them. ``metric`` is the validation metric that is to be large.
    """

    starts: tuple[tuple[str, RunConfig], ...]
    space: dict[str, Space]
    metric: str

    @property
    def start(self) -> RunConfig:
        """The configuration that is tried first; its seed is the search's too."""
        return self.starts[0][1]

    @property
    def model(self) -> str:
        """The model's registered name."""
        return self.start.name

    def for_data(self, size: Size) -> "Plan":
        """Return the plan whose starting points have the values that follow from a training matrix of this size."""
        return replace(self, starts=tuple((source, config.for_data(size)) for source, config in self.starts))

    def config(self, settings: Document) -> RunConfig:
        """Return the starting point with ``settings``, values by ``section.key``; raise :class:`ConfigError`."""
        return changed(self.start, settings)

    def settings(self, config: RunConfig) -> JsonObject:
        """Return the values that a configuration has for the searched options."""
        return {key: value_of(config, key) for key in self.space}

    def points(self, limit: int) -> list[JsonObject] | None:
        """Return all settings there are, None where they are more than ``limit`` or a continuum."""
        choices = [_choices(space, limit) for space in self.space.values()]
        if any(values is None for values in choices) or math.prod(len(values or ()) for values in choices) > limit:
            return None
        return [dict(zip(self.space, point, strict=True)) for point in product(*(values or () for values in choices))]

    def reads(self) -> set[str]:
        """Return the parts of a dataset, beside its clicks, that any trial takes its model's inputs from."""
        choices = [(key, kind.values) for key, kind in self.space.items() if isinstance(kind, OneOf)]
        tried = [self.config({key: value}) for key, values in choices for value in values]
        configs = [*(start for _, start in self.starts), *tried]
        return {part for config in configs for part in entry(self.model).model_class().reads(config.model)}

    def to_dict(self) -> JsonObject:
        """Return plain values for JSON; :meth:`from_dict` takes them back."""
        return {
            "model": self.model,
            "metric": self.metric,
            "space": {key: space_to_dict(space) for key, space in self.space.items()},
            "starts": [{"source": source, "config": config.to_dict()} for source, config in self.starts],
        }

    @classmethod
    def from_dict(cls, value: Document) -> "Plan":
        """Return the plan that :meth:`to_dict` described; raise KeyError, TypeError or :class:`ConfigError`."""
        starts = tuple((str(start["source"]), run_config(start["config"])) for start in value["starts"])
        space = {key: space_from_dict(described) for key, described in value["space"].items()}
        return cls(starts, _checked(starts[0][1], space), str(value["metric"]))


def plan(
    model: str | None = None,
    *,
    config: str | None = None,
    settings: Iterable[str] = (),
    space: Mapping[str, Space] | None = None,
    seed: int | None = None,
    metric: str = "ndcg@100",
    manifest: Document | None = None,
) -> Plan:
    """Return the search that the arguments describe: ``plan("ease", space={"model.l2": Between(50, 500, log=True)})``.

    ``model``, ``config``, ``settings`` and ``seed`` make the starting point as :func:`recvae.config.resolve` does.
    Searched are the options that are declared searchable, but for those that ``settings`` fixes, and those in
    ``space``. ``manifest`` is that of the dataset to be searched on: what is open in the starting point follows its
    counts, and where a configuration is shipped for it and the model, that is the second starting point.

    Raises :class:`ConfigError` naming what is unknown or out of range, what is both set and searched, and what would
    have trials learn and be scored by different data.
    """
    settings = list(settings)
    start = resolve(model, config, settings, seed)
    fixed = [setting.partition("=")[0].strip() for setting in settings]
    asked = dict(space or {})
    for key in fixed:
        if key in asked:
            raise ConfigError(f"{key} is both set and searched. Leave out one of the two.")
    searched: dict[str, Space] = {key: space for key, space in declared(start).items() if key not in fixed}
    searched |= asked
    if manifest is not None:
        start = start.for_data(Size.of_training(manifest))
    starts = [("given", start)]
    known = None if manifest is None else shipped_for(manifest, start.name)
    if manifest is not None and known is not None:
        second = resolve(start.name, known, settings, start.seed).for_data(Size.of_training(manifest))
        if second != start and _task(second) == _task(start):
            starts.append((f"shipped {known}", second))
    return Plan(tuple(starts), _checked(start, searched), metric)


def declared(config: RunConfig) -> dict[str, Space]:
    """Return the search spaces that a model's options declare, by ``section.key``."""
    return {
        f"{section}.{f.name}": f.metadata["search"]
        for section, options in (("model", config.model), ("train", config.train))
        if options is not None
        for f in fields(options)
        if f.metadata.get("search") is not None
    }


def parse_search(text: str) -> tuple[str, Space]:
    """Return the key and the space of one ``KEY=LOW:HIGH``, ``KEY=LOW:HIGH:log`` or ``KEY=A,B,C``.

    The values of a choice are as in TOML, lists included; bare words are taken as strings. Raises
    :class:`ConfigError` for any other form.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not (equals and key and values):
        raise ConfigError(f"--search needs the form {FORM}; got '{text}'.")
    ends = values.split(":")
    if len(ends) > 1:
        try:
            low, high = (_number(end) for end in ends[:2])
        except ValueError:
            raise ConfigError(f"--search needs numbers in a range: {FORM}; got '{text}'.") from None
        if ends[2:] not in ([], ["log"]):
            raise ConfigError(f"--search needs the form {FORM}; got '{text}'.")
        return key, Between(low, high, log=len(ends) == 3)
    try:
        chosen = from_toml(f"values = [{values}]")["values"]
    except tomllib.TOMLDecodeError:
        chosen = [word.strip() for word in values.split(",")]
    except ValueError as error:
        raise ConfigError(f"--search {key} cannot be read: {error}.") from error
    return key, OneOf(*chosen)


def space_to_dict(space: Space) -> JsonObject:
    """Return a space as plain values."""
    if isinstance(space, Between):
        return {"low": space.low, "high": space.high, "log": space.log}
    return {"values": [list(value) if isinstance(value, tuple) else value for value in space.values]}


def space_from_dict(value: Document) -> Space:
    """Return the space of :func:`space_to_dict`."""
    if "values" in value:
        return OneOf(*(tuple(choice) if isinstance(choice, list) else choice for choice in value["values"]))
    return Between(value["low"], value["high"], log=value["log"])


def changed(config: RunConfig, settings: Document) -> RunConfig:
    """Return ``config`` with other values, by ``section.key``; raise :class:`ConfigError` listing all mistakes."""
    values = config.to_dict()
    for key, value in settings.items():
        section, _, name = key.partition(".")
        values[section] = {**values.get(section, {}), name: value}
    return run_config(values)


def _checked(start: RunConfig, space: dict[str, Space]) -> dict[str, Space]:
    """Return the space with its values as the configuration holds them: an int where it has ints, a tuple for a list.

    The first values of all options are checked together, then the second ones, and so on.
    """
    values = {key: list(s.values) if isinstance(s, OneOf) else [s.low, s.high] for key, s in space.items()}
    for key, choices in values.items():
        section, _, name = key.partition(".")
        if section not in ("model", "train") or not name:
            raise ConfigError(f"{key} cannot be searched; an option is called model.something or train.something.")
        if len(choices) < 2:
            raise ConfigError(f"{key} has nothing to choose from. Search two values or more, or use --set {key}=VALUE.")
    made: dict[str, list[Any]] = {key: [] for key in space}
    for place in range(max(map(len, values.values()), default=0)):
        probe = {key: choices[place] for key, choices in values.items() if place < len(choices)}
        config = changed(start, probe)
        for key in probe:
            made[key].append(value_of(config, key))
            if key in entry(start.name).model_class().task and _task(config) != _task(start):
                raise ConfigError(
                    f"{key} cannot be searched: it decides what a model learns from and is scored by, so the scores "
                    f"would not compare. Set it, and tune once for each value: --set {key}=VALUE."
                )
    return {key: _made(key, kind, made[key]) for key, kind in space.items()}


def _task(config: RunConfig) -> tuple[Any, ...]:
    """Return the values that decide what the model learns from and is scored by; the same for most models, all ()."""
    return tuple(value_of(config, key) for key in entry(config.name).model_class().task)


def _made(key: str, kind: Space, values: list[Any]) -> Space:
    """Return one checked space."""
    if isinstance(kind, OneOf):
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} has a choice twice. Name each once.")
        return OneOf(*values)
    low, high = values
    if not (_is_number(low) and _is_number(high)):
        raise ConfigError(f"{key} is no number, so it has no range. Search a choice: {key}=A,B,C.")
    if not low < high:
        raise ConfigError(f"{key} is searched from {low} to {high}. Name the lower end first.")
    if kind.log and low <= 0:
        raise ConfigError(f"{key} cannot be spread by magnitude from {low}. Begin above 0, or leave out log.")
    return Between(low, high, log=kind.log)


def _choices(space: Space, limit: int) -> list[Any] | None:
    """Return all values of a space; None for a continuum, and for more than ``limit``."""
    if isinstance(space, OneOf):
        return list(space.values)
    if isinstance(space.low, int) and isinstance(space.high, int) and space.high - space.low < limit:
        return list(range(space.low, space.high + 1))
    return None


def _number(text: str) -> float:
    """Return an int where ``text`` is one, else a float; raise ValueError where it is neither or not finite."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is not finite") from None
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
