"""``recvae export``: a trained model as an ONNX graph with its items, for serving without torch."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from recvae.cli.options import Debug, Json, Overwrite, Quiet, RunFolder, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Terminal
from recvae.cli.threads import use_threads


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="EXPORT", help="The folder to write.", show_default=False)],
    weights: Annotated[
        Literal["float32", "int8", "bf16"],
        typer.Option(help="How the tables of weights are stored: int8 takes about a quarter, bf16 half the space."),
    ] = "float32",
    vectors: Annotated[
        bool,
        typer.Option("--vectors", help="Write users' encoder and items' vectors too, for an index of neighbours."),
    ] = False,
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a trained model as an ONNX graph with its items, which 'recvae serve' and 'recommend' run without torch.

    [dim]recvae export runs/ml-1m-recvae --out exports/ml-1m-recvae[/]
    [dim]recvae export runs/ml-1m-recvae --out exports/ml-1m-small --weights int8[/]
    """
    use_threads(threads)  # before torch is loaded
    from recvae.serving.export.folder import export_run
    from recvae.training.export_folder import MANIFEST, version_of

    terminal = Terminal(json=json, quiet=quiet)
    hold(out, run, marker=MANIFEST)
    check_folder(out, marker=MANIFEST, overwrite=overwrite)
    began = time.perf_counter()
    with terminal.amounts() as progress:
        written = export_run(
            run,
            out,
            weights=weights,
            vectors=vectors,
            overwrite=overwrite,
            on_step=lambda step: progress(step, 0, None),
        )
    manifest, version = written.manifest, version_of(out)
    sizes = {name: facts.bytes for name, facts in manifest.files.items()}
    size, seconds = sum(sizes.values()) / 1e6, time.perf_counter() - began
    terminal.note(
        f"{manifest.title}, {manifest.n_items:,} items: {size:,.1f} MB of {weights}, {seconds:.1f} s. On a few "
        f"histories the graph's scores differ from the model's by {written.difference:.1e} of their size at most."
    )
    if manifest.no_similarity:
        terminal.note(f"It lists no similar items: {manifest.no_similarity}")
    if manifest.vectors is not None:
        terminal.note(
            f"Vectors of {manifest.vectors.dimensions} dimensions: a score is the inner product of a user's and an "
            "item's, exactly."
        )
    place = shlex.quote(str(out))
    terminal.next(f"recvae serve {place}", f"recvae info {place} --verify")
    terminal.document(
        {
            "export": str(out),
            "run": str(run),
            "version": version,
            "manifest": manifest.model_dump(exclude={"files"}),
            "bytes": sizes,
            "difference": written.difference,
            "seconds": round(seconds, 3),
        }
    )
