"""``recvae info``: what a folder is, or what there is to work with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from recvae.cli.options import Debug, Json, Quiet
from recvae.cli.terminal import Terminal, share


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]", help="A dataset or run folder; without it, what recvae knows.", show_default=False
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything in the folder and check it.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Describe a dataset or run folder; without a path, list known datasets, models and shipped configurations."""
    from recvae.errors import InputError

    terminal = Terminal(json=json, quiet=quiet)
    if path is None:
        if verify:
            raise InputError("--verify needs a folder to check.")
        _catalogue(terminal)
    elif not path.exists():
        raise InputError(f"{path} does not exist.")
    elif (path / "manifest.json").is_file():
        _dataset(terminal, path, verify=verify)
    elif (path / "run.json").is_file():
        _run(terminal, path, verify=verify)
    else:
        raise InputError(
            f"{path} is neither a dataset folder ('recvae prepare' writes those) nor a run folder ('recvae train')."
        )


def _catalogue(terminal: Terminal) -> None:
    """Print known datasets, models with their papers, and shipped configurations."""
    from data_prep import RELEASES
    from recvae.config import shipped
    from recvae.registry import MODELS

    configs = list(shipped())
    terminal.result("Known datasets (recvae prepare NAME --out DIR)")
    terminal.result(*(f"  {release.name:<16} {release.url}" for release in RELEASES.values()))
    terminal.result("\nModels (recvae train DIR --model NAME --out RUN)")
    terminal.result(*(f"  {entry.name:<16} {entry.title}: {entry.paper}" for entry in MODELS.values()))
    terminal.result("\nShipped configurations (recvae train DIR --config NAME --out RUN)")
    terminal.result(*(f"  {name}" for name in configs))
    terminal.document(
        {
            "kind": "catalogue",
            "datasets": {release.name: {"url": release.url, "md5": release.md5} for release in RELEASES.values()},
            "models": {entry.name: {"title": entry.title, "paper": entry.paper} for entry in MODELS.values()},
            "configs": configs,
        }
    )


def _dataset(terminal: Terminal, path: Path, *, verify: bool) -> None:
    """Print a dataset in numbers."""
    from data_prep.dataset import Dataset
    from recvae.cli.prepare import summary

    data = Dataset.load(path)
    if verify:
        data.verify()
    about = data.describe()
    terminal.result(*summary(data, about))
    quantiles = ("min", "p25", "median", "p75", "p90", "p99", "max", "mean")
    terminal.result("", f"  {'':<22}" + "".join(f"{name:>8}" for name in quantiles))
    for label, values in (
        ("training clicks / user", about["splits"]["train"]["clicks_per_user"]),
        ("training clicks / item", about["popularity"]),
    ):
        terminal.result(f"  {label:<22}" + "".join(f"{_number(values[name]):>8}" for name in quantiles))
    top = about["popularity"]["share_of_top_tenth"]
    terminal.result(f"  The most popular tenth of the items has {100 * top:.0f} % of the training clicks.")
    terminal.result("", *_described(about))
    if verify:
        terminal.result("  Verified: every file is as it was written.")
    terminal.document({"kind": "dataset", "folder": str(path), "verified": verify, "dataset": about})


def _described(about: Mapping[str, Any]) -> list[str]:
    """Return lines about where a dataset comes from and how it was made."""
    lines = []
    for key in ("filters", "protocol"):
        values = {name: value for name, value in about.get(key, {}).items() if value not in (None, False, 0)}
        if values:
            lines.append(f"  {key:<11} " + ", ".join(f"{name.replace('_', ' ')} {v}" for name, v in values.items()))
    titles = f"{about['items_with_title']:,} of {about['items']:,} items have a title"
    lines.append(f"  {'titles':<11} {titles}, {about['items_with_tags']:,} have tags")
    source = about.get("source", {})
    lines += [f"  {key:<11} {source[key]}" for key in ("licence", "citation") if source.get(key)]
    return [*lines, f"  {'catalogue':<11} {about['vocabulary_hash'][:16]}"]


def _run(terminal: Terminal, path: Path, *, verify: bool) -> None:
    """Print what a run folder holds."""
    from recvae import checkpoint
    from recvae.cli.train import settings_line
    from recvae.recommender import load
    from recvae.registry import entry

    run = checkpoint.read_run(path)
    sealed = checkpoint.verify(path) if verify else None
    if verify:
        load(path, "cpu")
    rows = checkpoint.read_metrics(path)
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    metric, trained_on = run.dataset.get("validation_metric", "metric"), run.dataset.get("name", "unnamed data")
    terminal.result(f"{entry(run.model).title}, trained on {trained_on}: {run.n_items:,} items", "")
    sections = (section for section in ("model", "train") if run.config.get(section))
    terminal.result(*(f"  {section:<10} {settings_line(run.config[section])}" for section in sections))
    terminal.result(f"  {'seed':<10} {run.config.get('seed')}")
    if rows:
        terminal.result(f"  {'epochs':<10} {len(rows)} done, best {run.best_epoch}")
    if refit := run.dataset.get("refit"):
        again = f" for {refit['epoch']} epochs" if refit["epoch"] else ""
        terminal.result(f"  {'refitted':<10} on all {refit['clicks']:,} clicks but the test part{again}")
    if "validation" in run.metrics:
        terminal.result(f"  {'validation':<10} {metric} {share(run.metrics['validation'])}")
    terminal.result(f"  {'versions':<10} " + ", ".join(f"{name} {version}" for name, version in run.versions.items()))
    terminal.result(f"  {'files':<10} " + ", ".join(f"{name} {_size(size)}" for name, size in sizes.items()))
    terminal.result(f"  {'catalogue':<10} {run.vocabulary[:16]}")
    for later in run.resumed:
        made = ", ".join(f"{name} {version}" for name, version in later.versions.items())
        terminal.result(f"  {'':<10} from epoch {later.epoch} on: {made}")
    if sealed:
        terminal.result("  Verified: the model loads, and every file is as it was written.")
    elif verify:
        terminal.result(
            "  Verified as far as it can be, for the folder is from before seals: the model loads, and its weights, "
            "item ids and titles are as they were written; of other facts nothing says so."
        )
    terminal.document(
        {
            "kind": "run",
            "folder": str(path),
            "verified": verify,
            **({"sealed": sealed} if verify else {}),
            "run": run.model_dump(exclude={"sealed"}),
            "epochs": len(rows),
            "bytes": sizes,
        }
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.1f}"


def _size(size: int) -> str:
    """Return bytes for people, in powers of ten."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} B"
