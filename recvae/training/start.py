"""A warm start: a network that begins from the parameters of an earlier run, whose catalogue may be another one.

Every parameter starts from the earlier run's. A parameter with an axis of items (:meth:`Network.item_axes`) is matched
by item id: items that both catalogues have keep their values bit for bit, items that are new keep those of the
network's initialiser, and items that are gone are left out. Everything else of a run is made anew: Adam's moments, the
tensors that are computed from the clicks, and RecVAE's old posterior, which is that of the encoder that was loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recvae.config import RunConfig
from recvae.errors import InputError, listed
from recvae.nn.network import Network
from recvae.registry import entry
from recvae.training.tensors import Expected, wrong_form
from recvae.training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from recvae.training.records import Started

ITEMS = "items"  # the length, in the form of a parameter, of its axis of items


@dataclass(frozen=True)
class Start:
    """A trained model from which another one starts.

    ``source`` names it in sentences, ``version`` is a digest of it, and ``tensors`` has its parameters by name, maybe
    among others.
    """

    source: str
    version: str
    config: RunConfig
    items: Vocabulary
    conditions: tuple[str, ...]
    tensors: Mapping[str, Tensor]

    def check(self, config: RunConfig, conditions: tuple[str, ...], network: Network) -> None:
        """Raise :class:`InputError` unless a model of this configuration can start from it.

        The model must be the same, its conditions too, and the parameters must have the same shapes but for the number
        of items.
        """
        check_kind(self.source, self.config.name, config.name)
        if self.conditions != conditions:
            raise InputError(
                f"{self.source} has other conditions than this model: {_difference(self.conditions, conditions)}. A "
                "warm start needs the same; train without one."
            )
        axes = network.item_axes()
        ours = {name: _form(value, axes.get(name)) for name, value in network.named_parameters()}
        theirs = {name: value for name, value in self.tensors.items() if name in ours or name not in _buffers(network)}
        wrong = wrong_form(ours, {name: (tuple(value.shape), value.dtype) for name, value in theirs.items()})
        if wrong:
            raise InputError(
                f"{self.source} {wrong}{_settings(self.config, config)}. A warm start needs the same shapes: leave "
                "--model, --config and --set out to train with the settings of that run."
            )

    @torch.no_grad()
    def put_into(self, network: Network, items: Vocabulary) -> None:
        """Set the parameters of a network of ``items``; call :meth:`check` before."""
        kept = [
            (column, self.items.columns[item]) for item, column in items.columns.items() if item in self.items.columns
        ]
        here, there = torch.tensor(kept, dtype=torch.int64).reshape(-1, 2).unbind(1)
        axes = network.item_axes()
        for name, parameter in network.named_parameters():
            earlier, axis = self.tensors[name], axes.get(name)
            if axis is None:
                parameter.copy_(earlier)
            else:
                rows = earlier.index_select(axis, there.to(earlier.device)).to(parameter.device)
                parameter.index_copy_(axis, here.to(parameter.device), rows)
        network.started = True

    def record(self, items: Vocabulary) -> "Started":
        """Return the facts about this start of a model of ``items``, for its run folder."""
        from recvae.training.records import Started

        kept = len(items.columns.keys() & self.items.columns.keys())
        return Started(
            version=self.version, kept_items=kept, new_items=len(items) - kept, dropped_items=len(self.items) - kept
        )


def check_kind(source: str, theirs: str, ours: str) -> None:
    """Raise :class:`InputError` unless both names are of one model."""
    if theirs != ours:
        raise InputError(
            f"{source} was trained as {entry(theirs).title} ('{theirs}'), and {entry(ours).title} ('{ours}') can start "
            "only from a run of the same model."
        )


def _form(value: Tensor, axis: int | None) -> Expected:
    return Expected(tuple(ITEMS if place == axis else size for place, size in enumerate(value.shape)), value.dtype)


def _buffers(network: Network) -> set[str]:
    """Return the names of tensors that are computed from the clicks, anew in every run."""
    return {name for name, _ in network.named_buffers()}


def _settings(theirs: RunConfig, ours: RunConfig) -> str:
    """Return the options that may be the reason for other shapes: no number with a fraction is among them."""
    before, now = vars(theirs.model), vars(ours.model)
    changed = [key for key in before if before[key] != now.get(key) and not isinstance(before[key], float)]
    return f" (it was trained with {', '.join(f'model.{key}={before[key]}' for key in changed)})" if changed else ""


def _difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    """Return the conditions that one side has alone, for a sentence."""
    alone = {"lacks": [name for name in ours if name not in theirs], "has": [n for n in theirs if n not in ours]}
    return " and ".join(f"it {word} {listed(names)}" for word, names in alone.items() if names) or "their order differs"
