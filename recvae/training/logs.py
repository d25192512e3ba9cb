"""A log of training for programs that track experiments: one small protocol, which MLflow or TensorBoard implement.

docs/guide.md has a class for each of the two. recvae needs neither.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from recvae.arguments import shown
from recvae.errors import InputError

if TYPE_CHECKING:
    from recvae.config import RunConfig
    from recvae.training.loop import EpochReport

Value = str | int | float | bool | None


class TrainingLog(Protocol):
    """The three methods that ``fit(..., log=...)`` calls. An error in one of them ends the training."""

    def begin(self, options: Mapping[str, Value]) -> None:
        """Take the options, before the first epoch: ``name``, ``seed``, ``model.latent``, ``train.epochs`` and others.

        They are the values of the run, also of the options that followed the data; a list is its text.
        """

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Take the figures of an epoch, numbered from 1: ``seconds``, ``validation``, and losses of each phase.

        A loss is called by phase and name, such as ``encoder/loss``, and is the mean per user. ``validation`` is there
        for epochs that had a validation.
        """

    def end(self, finished: bool) -> None:
        """Close the log; ``finished`` is False where an error or Ctrl-C ended the training."""


@contextmanager
def logged(
    log: TrainingLog | None, config: "RunConfig", on_epoch: "Callable[[EpochReport], None] | None"
) -> "Iterator[Callable[[EpochReport], None] | None]":
    """Yield a function for the reports of epochs that calls ``on_epoch`` and the log; begin and end the log."""
    if log is None:
        yield on_epoch
        return

    def hear(report: "EpochReport") -> None:
        if on_epoch is not None:
            on_epoch(report)
        log.epoch(report.epoch, figures(report))

    log.begin(plain_options(config))
    finished = False
    try:
        yield hear
        finished = True
    finally:
        log.end(finished)


def refuse_other_logs(log: object) -> None:
    """Raise :class:`InputError` for an argument ``log`` that lacks a method of :class:`TrainingLog`."""
    missing = [name for name in ("begin", "epoch", "end") if not callable(getattr(log, name, None))]
    if log is not None and missing:
        raise InputError(f"log must have the methods begin, epoch and end, and {shown(log)} has no {missing[0]}.")


def plain_options(config: "RunConfig") -> dict[str, Value]:
    """Return the options of a configuration by their names on the command line, such as ``model.latent``."""
    options: dict[str, Value] = {}
    for key, value in config.to_dict().items():
        named = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
        for name, one in named.items():
            options[name] = one if one is None or isinstance(one, str | int | float | bool) else str(one)
    return options


def figures(report: "EpochReport") -> dict[str, float]:
    """Return the numbers of an epoch's report by name; those that are not finite are left out."""
    found: dict[str, float | None] = {"seconds": report.seconds, "validation": report.score}
    for phase, losses in report.phases.items():
        found |= {f"{phase}/{name}": value for name, value in losses.items()}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
