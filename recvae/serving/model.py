"""A model as a service sees it, whether torch computes its scores or onnxruntime, and the way from a folder to it."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from recvae.errors import InputError
from recvae.queries import Answer, Mask, Names, Query
from recvae.training.export_folder import is_export
from recvae.training.vocabulary import Vocabulary


class Model(Protocol):
    """The part of :class:`recvae.recommender.Recommender` that a service and a list need; an export has it too."""

    items: Vocabulary

    @property
    def name(self) -> str:
        """The registered name."""

    @property
    def title(self) -> str:
        """The name for people."""

    @property
    def device(self) -> object:
        """The device that computes, whose name is its text."""

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""

    @property
    def named_value(self) -> float:
        """The value, in a history, of an item that is only named."""

    @property
    def of_ratings(self) -> bool:
        """Whether histories hold ratings."""

    @property
    def condition_names(self) -> Sequence[str]:
        """The names of the model's conditions."""

    @property
    def dataset(self) -> Mapping[str, object]:
        """Facts about the data that the model was trained on."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its scores on them."""

    def hold(self) -> None:
        """Take memory to answer faster."""

    def encode_conditions(self, names: Sequence[Sequence[str]]) -> object:
        """Raise :class:`InputError` for names of conditions that cannot be asked under."""

    def answer(self, query: Query) -> Answer:
        """Return the lists that answer a query."""

    def similar_items(
        self,
        ids: Sequence[int] | int,
        k: int = 10,
        *,
        allow: Mask = None,
        deny: Mask = None,
        allow_tags: Names = None,
        deny_tags: Names = None,
    ) -> Answer:
        """Return the items most like each of ``ids``."""


def load_model(folder: Path, device: str = "auto", threads: int = 1) -> Model:
    """Return the model of a run folder, on ``device``, or that of an export, which computes with ``threads`` threads.

    torch is imported for a run folder alone. Raises :class:`InputError` where there is no such folder, where a program
    is missing that this kind of folder needs, or for a ``device`` that an export has not, and :class:`FormatError`
    where the folder is damaged, or neither of the two.
    """
    if is_export(folder):
        from recvae.serving import onnx_runtime

        if device not in ("auto", "cpu"):
            raise InputError(f"{folder} is an export, which runs on the CPU: leave --device {device} out.")
        return onnx_runtime.load(folder, threads)
    need_torch(folder)
    from recvae.recommender import load

    return load(folder, device)


def need_torch(folder: Path) -> None:
    """Raise :class:`InputError` where ``folder`` is there and is no export, and torch is not installed."""
    if folder.exists() and find_spec("torch") is None:
        raise InputError(
            f"{folder} is no export, and a run folder is loaded by torch, which is not installed. Name a folder that "
            "'recvae export' wrote, or install torch."
        )
