"""What a model keeps in a run folder, and how it comes back from one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from recvae.arguments import flag, path_of
from recvae.config import RunConfig, run_config
from recvae.errors import ConfigError, FormatError
from recvae.files import Document, JsonObject, whole_folder
from recvae.files.swap import one_version
from recvae.training import versions
from recvae.training.tensors import Expected
from recvae.training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from recvae.training.records import Later, Run, Started


class Kept(ABC):
    """A model that is kept as a run folder: its configuration, its items, the tensors that it learned, its history."""

    name: ClassVar[str]
    config: RunConfig
    items: Vocabulary
    condition_names: tuple[str, ...]
    best_epoch: int | None
    metrics: dict[str, float]
    dataset: JsonObject
    versions: dict[str, str]  # of the programs that trained it; empty for those of this process
    resumed: "tuple[Later, ...]"
    start: "Started | None"  # where training began from an earlier run's parameters

    @classmethod
    @abstractmethod
    def from_config(cls, config: RunConfig, device: str = "auto") -> Self:
        """Return an unfitted model of a configuration."""

    @abstractmethod
    def _need_fit(self) -> None:
        """Raise :class:`InputError` where there is nothing to keep yet."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what was learned, by name."""

    @abstractmethod
    def expected(self) -> Mapping[str, Expected]:
        """Return what :meth:`tensors` returns by its form, from configuration, items and conditions alone.

        A file is compared with it before it is read, so nothing of the size of the tensors may be made here.
        """

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what :meth:`tensors` returned, which is as :meth:`expected`; ``items`` is set already."""

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write a run folder that loads without the training data; whole or not at all."""
        from recvae.training.run_folder import RUN, seal, write_items, write_run, write_weights

        self._need_fit()
        overwrite = flag("overwrite", overwrite)
        with whole_folder(path_of(folder), marker=RUN, overwrite=overwrite) as temporary:
            write_items(temporary, self.items)
            write_weights(temporary, self.tensors(), self.facts())
            write_run(temporary, self.run())
            seal(temporary)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """Return the model of a run folder; raise :class:`FormatError` where it is damaged or of another model.

        Where the folder is being replaced, all of the model is the earlier one or all is the new one.
        """
        place = path_of(folder)
        return one_version(place, lambda: cls._read(place, device))

    @classmethod
    def _read(cls, folder: Path, device: str) -> Self:
        from recvae.training.run_folder import RUN, WEIGHTS, read_items, read_run, read_weights

        run = read_run(folder)
        if run.model != cls.name:
            raise FormatError(f"{folder} holds a '{run.model}' model, not a '{cls.name}' one.")
        try:
            config = run_config(run.config)
        except ConfigError as error:
            raise FormatError(f"{folder / RUN} was altered, or is another version's. {error}") from error
        model = cls.from_config(config, device)
        model.items = read_items(folder, run)

        def expected(facts: Document) -> Mapping[str, Expected]:
            if facts["vocabulary"] != run.vocabulary or facts["model"] != run.model:
                raise FormatError(f"{folder / WEIGHTS} belongs to another run than {folder / RUN}. Train again.")
            model.condition_names = tuple(facts.get("conditions", ()))
            return model.expected()

        tensors, facts = read_weights(folder, expected)
        model.best_epoch, model.metrics, model.dataset = facts["best_epoch"], facts["metrics"], run.dataset
        model.versions, model.resumed, model.start = run.versions, run.resumed, run.start
        model.load_tensors(tensors)
        return model

    def run(self) -> "Run":
        """Return what run.json says of this model."""
        from recvae.training.records import Run

        return Run(
            model=self.name,
            config=self.config.to_dict(),
            n_items=len(self.items),
            vocabulary=self.items.hash(),
            titles=self.items.titles_hash(),
            tags=self.items.tags_hash(),
            versions=self.versions or versions.versions(),
            best_epoch=self.best_epoch,
            metrics=self.metrics,
            dataset=self.dataset,
            resumed=self.resumed,
            start=self.start,
            sealed=True,
        )

    def facts(self) -> JsonObject:
        """Return what the weights' file says of itself."""
        return {
            "model": self.name,
            "vocabulary": self.items.hash(),
            "best_epoch": self.best_epoch,
            "metrics": self.metrics,
            **({"conditions": list(self.condition_names)} if self.condition_names else {}),
        }
