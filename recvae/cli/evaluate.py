"""``recvae evaluate``: a trained model measured on held-out users."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from recvae.cli.across import join
from recvae.cli.catalogues import refuse_other_data
from recvae.cli.options import (
    METRICS,
    DatasetFolder,
    Debug,
    Device,
    Diversity,
    Json,
    Metrics,
    MostPerTag,
    Quiet,
    RunFolder,
    Threads,
)
from recvae.cli.prepare import arrivals_in_words
from recvae.cli.rules import Words
from recvae.cli.terminal import Terminal, amount, share
from recvae.cli.threads import use_threads

if TYPE_CHECKING:
    from eval import RatingPredictor
    from recvae.files import Document

_SPLITS = ("test", "validation")


def evaluate(
    run: RunFolder,
    folder: DatasetFolder,
    split: Annotated[str, typer.Option(metavar="SPLIT", help="test or validation.")] = "test",
    metrics: Metrics = METRICS,
    most_per_tag: MostPerTag = None,
    diversity: Diversity = 0.0,
    device: Device = "auto",
    threads: Threads = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank items for held-out users and print the metrics, each with its standard error.

    [dim]recvae evaluate runs/ml-1m-recvae ml-1m --metrics ndcg@10,recall@20[/]
    [dim]recvae evaluate runs/ml-1m-recvae ml-1m --metrics ndcg@10,diversity@10,coverage@10 --diversity 0.3[/]
    """
    use_threads(threads)  # before torch is loaded
    from data_prep.dataset import Dataset
    from eval import parse_metrics, rating_metrics
    from recvae.errors import InputError, did_you_mean
    from recvae.experiments.facts import facts
    from recvae.experiments.groups import by_arrival
    from recvae.experiments.measure import evaluated
    from recvae.recommender import load
    from recvae.reports.machine import environment
    from recvae.reports.results import ModelResult, results
    from recvae.reports.tables import rich_table

    across = join(device)
    first = across is None or across.rank == 0
    terminal = Terminal(json=json and first, quiet=quiet or not first)
    words = Words(None, None, None, None, None, most_per_tag, diversity)
    names = [str(name) for name in parse_metrics(metrics)]
    if split not in _SPLITS:
        raise InputError(
            f"There is no split '{split}' to evaluate on; use test or validation.{did_you_mean(split, _SPLITS)}"
        )
    data = Dataset.load(folder)
    model = load(run, device if across is None else str(across.device), across=across)
    refuse_other_data(model, run, data, folder)
    if split == "validation" and "refit" in model.dataset:
        raise InputError(f"{run} was refitted on the validation clicks too; only --split test says anything of it.")
    if most_per_tag is not None and not model.items.tag_names:
        model.items = model.items.tagged(data.item_tags)  # of a run that holds none
    rules = {name: value for name, value in words.reranking().items() if value}
    with terminal.amounts() as progress:
        evaluation = evaluated(
            model, data, names, split=split, progress=lambda done, total: progress("rank users", done, total), **rules
        )
    if model.predicts_ratings:  # beside the ranking; the less, the better
        evaluation.metrics.update(
            rating_metrics(cast("RatingPredictor", model), data.ratings(f"{split}_in"), data.ratings(f"{split}_out"))
        )
    measured = {model.name: ModelResult(evaluation, config=model.config.to_dict())}
    value = results(measured, facts(data, split=split), environment(), metric=names[0])
    terminal.result(rich_table(value, width=terminal.out.width))
    if evaluation.left_out:
        terminal.note(f"{evaluation.left_out:,} users without held-out items are left out.")
    arrivals = data.arrivals(split)
    groups = {} if arrivals is None else {"groups": by_arrival(evaluation, arrivals)}
    if arrivals is not None:
        told = data.manifest["arrivals"][split]
        lines = [f"{name.replace('_', ' ')}: {_in_words(found)}" for name, found in groups["groups"].items()]
        terminal.lines(*lines, f"{arrivals_in_words(told, data.n_users(split))}: these count as not found.")
    terminal.document({**value, **groups, **({"rules": rules} if rules else {})})


def _in_words(metrics: "Document") -> str:
    """Return the metrics of a group of users on one line."""
    words = []
    for name, found in metrics.items():
        error = "" if found["se"] is None else f" ± {share(found['se'])}"
        words.append(f"{name} {'none' if found['mean'] is None else share(found['mean'])}{error}")
    users = next((found["users"] for found in metrics.values()), 0)
    return f"{', '.join(words)} ({amount(users, 'user')})"
