"""Where a warm start comes from: the run folder, or the model in memory, that ``start`` names in a model's ``fit``."""

from pathlib import Path

from recvae.arguments import path_of
from recvae.files.swap import one_version
from recvae.recommender import Recommender, load
from recvae.training.start import Start, check_kind

Source = Recommender | str | Path
"""A fitted model, or the folder of a run."""


def start_of(source: Source, name: str) -> Start:
    """Return the start that a model called ``name`` has in ``source``.

    Raises :class:`InputError` where it is another model, one that is not fitted, or no path, and :class:`FormatError`
    where a run folder is damaged.
    """
    from recvae.training.run_folder import read_run, version_of
    from recvae.training.tensor_files import digest_of, on_cpu

    if isinstance(source, Recommender):
        check_kind("The model to start from", source.name, name)
        source._need_fit()
        return _of_model(source, "The model to start from", digest_of(on_cpu(source.tensors()))[:12])
    folder = path_of(source)

    def read() -> Start:
        check_kind(str(folder), read_run(folder).model, name)
        return _of_model(load(folder, "cpu"), str(folder), version_of(folder))

    return one_version(folder, read)


def _of_model(model: Recommender, source: str, version: str) -> Start:
    return Start(source, version, model.config, model.items, model.condition_names, model.tensors())
