"""``recvae blend``: trained models joined into one that ranks by the weighted sum of their scores."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recvae.cli.catalogues import refuse_other_data
from recvae.cli.options import METRIC, DatasetFolder, Debug, Device, Json, Overwrite, Quiet, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Terminal, amount, share
from recvae.cli.threads import use_threads
from recvae.files import JsonObject

if TYPE_CHECKING:
    from rich.table import Table

    from recvae.recommender import Recommender


def blend(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Two or more runs, trained on DIR.", show_default=False),
    ],
    folder: DatasetFolder,
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder to write.", show_default=False)],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="A weight for each run, in order, instead of searching them.", show_default=False
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME@K", help="What chooses the weights, on the validation users.")
    ] = METRIC,
    device: Device = "auto",
    threads: Threads = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Join trained models into one that ranks by the weighted sum of their scores, and write a run folder.

    [dim]recvae blend runs/ml-1m-recvae runs/ml-1m-ease ml-1m --out runs/ml-1m-blend[/]
    """
    used = use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from recvae.experiments.blend_weights import Trials, best_weights
    from recvae.experiments.facts import facts
    from recvae.experiments.measure import validate_with
    from recvae.models.blend import Blend, normalised
    from recvae.recommender import load
    from recvae.registry import entry

    terminal = Terminal(json=json, quiet=quiet)
    _check_runs(runs)
    given = None if weights is None else normalised(_numbers(weights), len(runs))
    hold(out, folder, *runs, marker="run.json")
    check_folder(out, marker="run.json", overwrite=overwrite)
    data = Dataset.load(folder)
    validation = validate_with(data, metric)
    models = []
    for run in runs:
        models.append(load(run, device))
        refuse_other_data(models[-1], run, data, folder)
    unseen = _validation_clicks_are_unseen(runs, models, searching=given is None)
    began = time.perf_counter()
    blended = Blend(models, data.validation_in, given, device=device)
    figures: list[float | None] = [None] * len(runs)
    with terminal.amounts() as progress:
        trials = Trials(blended, validation, on_try=lambda done: progress("try weights", done, None))
        if unseen:
            figures = [trials.alone(place) for place in range(len(runs))]
            blended = blended.with_weights(best_weights(trials) if given is None else given)
            blended.metrics = {"validation": trials(blended.weights)}
    blended.dataset = facts(data, validation_metric=metric) if unseen else facts(data, refit=_refit(models))
    blended.save(out, overwrite=overwrite)
    seconds = time.perf_counter() - began
    components = [
        {"run": str(run), "model": model.name, "weight": weight, "spread": spread, "validation": figure}
        for run, model, weight, spread, figure in zip(
            runs, models, blended.weights, blended.spreads, figures, strict=True
        )
    ]
    terminal.note(f"{' + '.join(entry(model.name).title for model in models)} on {data.name}")
    terminal.result(_table(components, blended.metrics.get("validation"), metric))
    idle = [str(part["run"]) for part in components if not part["weight"]]
    if idle and given is None:
        terminal.note(f"{' and '.join(idle)}: of no use beside the others, by the validation users.")
    tried = "" if given is not None else f"{amount(len(trials.figures), 'set')} of weights tried, "
    terminal.note(f"{tried}{seconds:.1f} s. The model is in {out}.")
    place, dataset = shlex.quote(str(out)), shlex.quote(str(folder))
    terminal.next(f"recvae evaluate {place} {dataset}")
    terminal.document(
        {
            "run": str(out),
            "model": blended.name,
            "dataset": blended.dataset,
            "components": components,
            "metrics": {metric: blended.metrics["validation"]} if unseen else {},
            "tried": len(trials.figures) if given is None else 0,
            "seconds": round(seconds, 3),
            "threads": used,
            "config": blended.config.to_dict(),
        }
    )


def _check_runs(runs: Sequence[Path]) -> None:
    """Refuse a single run."""
    from recvae.errors import InputError

    if len(runs) < 2:
        raise InputError(
            "A blend needs at least two runs. Name them before the dataset folder: recvae blend RUN RUN DIR --out BLEND"
        )


def _numbers(text: str) -> list[float]:
    from recvae.errors import InputError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--weights needs a number for each run, such as 0.7,0.3; got '{text}'.") from error


def _validation_clicks_are_unseen(runs: Sequence[Path], models: Sequence["Recommender"], *, searching: bool) -> bool:
    """Return whether no model has learned from the validation clicks; raise where weights are searched on them."""
    from recvae.errors import InputError

    seen = [run for run, model in zip(runs, models, strict=True) if "refit" in model.dataset]
    if seen and searching:
        raise InputError(
            f"{seen[0]} was refitted on the validation clicks, so these cannot tell what it should weigh. Blend the "
            "runs that it was refitted from, and then the refitted ones with the weights found: --weights A,B"
        )
    return not seen


def _refit(models: Sequence["Recommender"]) -> JsonObject:
    """Return the first refitted model's facts about its refit, for the blend."""
    return next(model.dataset["refit"] for model in models if "refit" in model.dataset)


def _table(components: Sequence[JsonObject], score: float | None, metric: str) -> "Table":
    """Return the components with their weights and validation figures, and the blend below them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, justify in (("run", "left"), ("model", "left"), ("weight", "right"), (f"validation {metric}", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]  # rich has a type for the three words
    rows = [(part["run"], part["model"], f"{part['weight']:.3g}", part["validation"]) for part in components]
    for run, model, weight, figure in [*rows, ("", "blend", "", score)]:
        table.add_row(Text(run), model, weight, "" if figure is None else share(figure))
    return table
