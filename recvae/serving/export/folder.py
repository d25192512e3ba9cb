"""The writing of an export: graphs, weights, items, vectors and manifest, compared with the model before it appears."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recvae import __version__
from recvae.arguments import need_packages
from recvae.errors import InputError, WorkError
from recvae.files import whole_folder
from recvae.files.swap import one_version
from recvae.recommender import Recommender, load
from recvae.serving.export.comparison import TOLERANCE, compared
from recvae.serving.reload import version_of
from recvae.training.export_folder import (
    ENCODER,
    ITEM_VECTORS,
    ITEMS,
    MANIFEST,
    SIMILAR,
    TAGS,
    Manifest,
    Precision,
    Similarity,
    VectorFacts,
    file_facts,
    write_manifest,
)
from recvae.training.item_files import fill_items, fill_tags
from recvae.training.seals import verify

Step = Callable[[str], None]
"""Is told what is being done."""


@dataclass(frozen=True)
class Report:
    """An export that was written: its manifest, and how far its graph is from the model on a few histories.

    ``difference`` is the largest |a - b| / max(1, |b|) over the scores, similarities and vectors b of the model.
    """

    manifest: Manifest
    difference: float


def export_run(
    run: Path,
    out: Path,
    *,
    weights: Precision = "float32",
    vectors: bool = False,
    overwrite: bool = False,
    on_step: Step = lambda step: None,
) -> Report:
    """Write the model of a run folder as an export.

    Raises :class:`FormatError` where the run is damaged, and the errors of :func:`export`.
    """
    on_step("read the run")

    def read() -> tuple[Recommender, str]:
        model = load(run, "cpu")
        verify(run)
        return model, version_of(run)

    model, version = one_version(run, read)
    return export(model, version, out, weights=weights, vectors=vectors, overwrite=overwrite, on_step=on_step)


def export(
    model: Recommender,
    version: str,
    out: Path,
    *,
    weights: Precision = "float32",
    vectors: bool = False,
    overwrite: bool = False,
    on_step: Step = lambda step: None,
) -> Report:
    """Write a model on the CPU as an export, whole or not at all; ``version`` is that of its run folder.

    ``weights``: the precision of its tables; ``vectors`` adds the graph of users' vectors, and the items' vectors.
    Raises :class:`InputError` for a model that has no graph, no table to shrink or no vectors, where packages are
    missing, and where ``out`` exists and may not be replaced; :class:`WorkError` where torch's exporter cannot trace
    the model, and where the graph's scores are not the model's.
    """
    need_packages("An export", "onnx", "onnxscript", "onnxruntime", install="'recvae[export]'")
    from recvae.serving.export import graphs, tables

    with whole_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        on_step("trace the model")
        no_similarity = _no_similarity(model)
        graph = tables.prepared(graphs.traced(model, similarity=not no_similarity, vectors=vectors))
        on_step("write the graph")
        parts = graphs.parts_of(tables.shrunk(graph, weights, model.title))
        tables.write(folder, parts)
        fill_items(folder / ITEMS, model.items)
        if model.items.tag_names:
            fill_tags(folder / TAGS, model.items)
        of_vectors = _write_vectors(folder, model) if vectors else None
        on_step("compare the graph with the model")
        difference = compared(model, folder, list(parts))
        if weights == "float32" and not difference <= TOLERANCE:
            raise WorkError(
                f"The graph of this {model.title} model is not the model: its scores differ by {difference:.1e} of "
                f"their size, more than {TOLERANCE:.0e}. Nothing was written. Please report this."
            )
        manifest = Manifest(
            recvae=__version__,
            model=model.name,
            title=model.title,
            run=version,
            weights=weights,
            n_items=model.n_items,
            named_value=model.named_value,
            of_ratings=model.of_ratings,
            conditions=list(model.condition_names),
            attributes=list(model.attributes),
            dataset=model.dataset,
            metrics=model.metrics,
            similarity=None if no_similarity else Similarity(file=SIMILAR),
            no_similarity=no_similarity,
            vectors=of_vectors,
            files={path.name: file_facts(path) for path in sorted(folder.iterdir())},
        )
        write_manifest(folder, manifest)
    return Report(manifest, difference)


def _no_similarity(model: Recommender) -> str:
    """Return the sentence of a model that does not know which items are alike, empty for one that does."""
    try:
        model.similarity(torch.zeros(1, dtype=torch.int64))
    except InputError as error:
        return str(error)
    return ""


def _write_vectors(folder: Path, model: Recommender) -> VectorFacts:
    """Write the items' vectors, float32 (n_items, D), as an array in the order of items.csv, and by item id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    vectors = np.ascontiguousarray(model.vectors().items.detach().cpu().numpy())
    array, table = (folder / name for name in ITEM_VECTORS)
    np.save(array, vectors)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"item_id": pa.array(model.items.ids, pa.string()), "vector": lists}), table)
    return VectorFacts(encoder=ENCODER, items=[*ITEM_VECTORS], dimensions=vectors.shape[1])
