"""``recvae info``: a folder or a model described; or the lists of known datasets, models and configurations."""

from pathlib import Path
from typing import Annotated

import typer

from recvae.cli.options import Debug, Json, Quiet
from recvae.cli.terminal import Terminal, share
from recvae.errors import listed
from recvae.files import Document


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH|MODEL]",
            help="A dataset folder, run folder or export, or a model's name; without it, what recvae knows.",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read everything in the folder and check it.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Describe a dataset or run folder, or a model's options; without either, list known datasets, models and settings.

    [dim]recvae info ml-1m --verify[/]
    [dim]recvae info mult-vae[/]
    """
    from recvae.errors import InputError, did_you_mean
    from recvae.files import recover
    from recvae.registry import models
    from recvae.training.export_folder import is_export

    terminal = Terminal(json=json, quiet=quiet)
    if path is not None:
        recover(path, marker="run.json", whole="model.safetensors")
    if path is None:
        if verify:
            raise InputError("--verify needs a folder to check.")
        _catalogue(terminal)
    elif (path / "manifest.json").is_file():
        _dataset(terminal, path, verify=verify)
    elif is_export(path):
        _export(terminal, path, verify=verify)
    elif (path / "run.json").is_file():
        _run(terminal, path, verify=verify)
    elif str(path) in models():
        if verify:
            raise InputError(f"--verify needs a folder to check, and '{path}' is a model's name.")
        _model(terminal, str(path))
    elif not path.exists():
        raise InputError(f"{path} does not exist, and no model is called so.{did_you_mean(path.name, models())}")
    else:
        raise InputError(
            f"{path} is neither a dataset folder ('recvae prepare' writes those) nor a run folder ('recvae train') nor "
            "an export ('recvae export')."
        )


FOLLOWS = "Where nobody sets it, it follows the size of the data; the value here is the paper's."


def _model(terminal: Terminal, name: str) -> None:
    """Print every option of a model."""
    from dataclasses import asdict

    from recvae.experiments.space import space_to_dict
    from recvae.options import described, value_text
    from recvae.registry import entry

    about = entry(name)
    kind = about.model_class()
    sections = {"model": kind.model_defaults, "train": kind.train_defaults}
    options = {section: described(of) for section, of in sections.items() if of is not None}
    terminal.lines(f"{about.title}: {about.paper}")
    for section, those in options.items():
        terminal.lines("", f"--set {section}.OPTION=VALUE" if those else "It has no options.")
        for each in those:
            default = "not set" if each.default is None else value_text(each.default)
            follows = f"{section}.{each.name}" in kind.follows
            terminal.lines(f"  {each.name} = {default}")
            terminal.lines(f"      {each.sentence()}{' ' + FOLLOWS if follows else ''}")
    terminal.document(
        {
            "kind": "model",
            "name": name,
            "title": about.title,
            "paper": about.paper,
            "options": {
                section: {
                    each.name: {
                        **{key: value for key, value in asdict(each).items() if key not in ("name", "search")},
                        "search": None if each.search is None else space_to_dict(each.search),
                        "follows_the_data": f"{section}.{each.name}" in kind.follows,
                    }
                    for each in those
                }
                for section, those in options.items()
            },
        }
    )


def _catalogue(terminal: Terminal) -> None:
    """Print known datasets, models with their papers, and shipped configurations."""
    from data_prep import RELEASES
    from recvae.config import shipped
    from recvae.registry import models

    configs = list(shipped())
    terminal.lines("Known datasets (recvae prepare NAME --out DIR)")
    terminal.lines(*(f"  {release.name:<16} {release.url}" for release in RELEASES.values()))
    terminal.lines("\nModels (recvae train DIR --model NAME --out RUN)")
    terminal.lines(*(f"  {entry.name:<16} {entry.title}: {entry.paper}" for entry in models().values()))
    terminal.lines("\nShipped configurations (recvae train DIR --config NAME --out RUN)")
    terminal.lines(*(f"  {name}" for name in configs))
    terminal.document(
        {
            "kind": "catalogue",
            "datasets": {release.name: {"url": release.url, "md5": release.md5} for release in RELEASES.values()},
            "models": {entry.name: {"title": entry.title, "paper": entry.paper} for entry in models().values()},
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
    terminal.lines(*summary(data, about))
    terminal.lines("", *_quantiles(about, terminal.width))
    top = about["popularity"]["share_of_top_tenth"]
    terminal.lines(f"  The most popular tenth of the items has {100 * top:.0f} % of the training clicks.")
    terminal.lines("", *_described(about))
    if verify:
        terminal.lines("  Verified: every file is as it was written.")
    terminal.document({"kind": "dataset", "folder": str(path), "verified": verify, "dataset": about})


def _quantiles(about: Document, width: int | None) -> list[str]:
    """Return how training clicks are spread over users and items: a line for each, or a column on a narrow terminal."""
    names = ("min", "p25", "median", "p75", "p90", "p99", "max", "mean")
    spread = {"user": about["splits"]["train"]["clicks_per_user"], "item": about["popularity"]}
    if width is None or width >= 24 + 8 * len(names):
        rows = [f"  {'':<22}" + "".join(f"{name:>8}" for name in names)]
        for of, values in spread.items():
            rows.append(f"  {f'training clicks / {of}':<22}" + "".join(f"{_number(values[name]):>8}" for name in names))
        return rows
    rows = [f"  {'training clicks':<16}" + "".join(f"{f'/ {of}':>10}" for of in spread)]
    return rows + [f"  {n:>16}" + "".join(f"{_number(values[n]):>10}" for values in spread.values()) for n in names]


def _described(about: Document) -> list[str]:
    """Return lines about a dataset's source, filters and split."""
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
    """Print the facts of a run folder."""
    from recvae.cli.train import settings_line, started
    from recvae.recommender import load
    from recvae.registry import entry
    from recvae.training import run_folder

    run = run_folder.read_run(path)
    sealed = run_folder.verify(path) if verify else None
    if verify:
        load(path, "cpu")
    rows = run_folder.read_metrics(path)
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in sorted(path.rglob("*")) if file.is_file()}
    metric, trained_on = run.dataset.get("validation_metric", "metric"), run.dataset.get("name", "unnamed data")
    terminal.lines(f"{entry(run.model).title}, trained on {trained_on}: {run.n_items:,} items", "")
    sections = (section for section in ("model", "train") if run.config.get(section))
    terminal.lines(*(f"  {section:<10} {settings_line(run.config[section])}" for section in sections))
    terminal.lines(f"  {'seed':<10} {run.config.get('seed')}")
    if rows:
        terminal.lines(f"  {'epochs':<10} {len(rows)} done, best {run.best_epoch}")
    if refit := run.dataset.get("refit"):
        again = f" for {refit['epoch']} epochs" if refit["epoch"] else ""
        terminal.lines(f"  {'refitted':<10} on all {refit['clicks']:,} clicks but the test part{again}")
    if run.start is not None:
        terminal.lines(f"  {'warm start':<10} {started(run.start)}")
    if "validation" in run.metrics:
        terminal.lines(f"  {'validation':<10} {metric} {share(run.metrics['validation'])}")
    terminal.lines(f"  {'versions':<10} " + ", ".join(f"{name} {version}" for name, version in run.versions.items()))
    terminal.lines(f"  {'files':<10} " + ", ".join(f"{name} {_size(size)}" for name, size in sizes.items()))
    terminal.lines(f"  {'catalogue':<10} {run.vocabulary[:16]}")
    for later in run.resumed:
        made = ", ".join(f"{name} {version}" for name, version in later.versions.items())
        terminal.lines(f"  {'':<10} from epoch {later.epoch} on: {made}")
    if sealed:
        terminal.lines("  Verified: the model loads, and every file is as it was written.")
    elif verify:
        terminal.lines(
            "  Verified as far as it can be, for the folder is from before seals: the model loads, and its weights, "
            "item ids and titles are as they were written; of other facts nothing says so."
        )
    terminal.document(
        {
            "kind": "run",
            "folder": str(path),
            "verified": verify,
            **({"sealed": sealed} if verify else {}),
            "run": {key: value for key, value in run.to_dict().items() if key != "sealed"},
            "epochs": len(rows),
            "bytes": sizes,
        }
    )


def _export(terminal: Terminal, path: Path, *, verify: bool) -> None:
    """Print the facts of an export; torch is not needed."""
    from recvae.serving import onnx_runtime
    from recvae.training import export_folder

    manifest, version = export_folder.read_manifest(path), export_folder.version_of(path)
    if verify:
        onnx_runtime.load(path)
    name = manifest.dataset.get("name", "unnamed data")
    sizes = {file: facts.bytes for file, facts in manifest.files.items()}
    similar = "yes" if manifest.similarity else "no"
    terminal.lines(f"{manifest.title}, exported, trained on {name}: {manifest.n_items:,} items", "")
    terminal.lines(f"  {'version':<10} {version[:12]}", f"  {'run':<10} {manifest.run[:12]}")
    terminal.lines(f"  {'weights':<10} {manifest.weights}", f"  {'similar':<10} {similar}")
    if manifest.conditions:
        terminal.lines(f"  {'conditions':<10} {listed(manifest.conditions)}")
    metric = manifest.dataset.get("validation_metric", "metric")
    if "validation" in manifest.metrics:
        terminal.lines(f"  {'validation':<10} {metric} {share(manifest.metrics['validation'])}")
    terminal.lines(f"  {'made by':<10} recvae {manifest.recvae}")
    terminal.lines(f"  {'files':<10} " + ", ".join(f"{file} {_size(size)}" for file, size in sizes.items()))
    if verify:
        terminal.lines("  Verified: the model loads, and every file is as it was written.")
    terminal.document(
        {
            "kind": "export",
            "folder": str(path),
            "verified": verify,
            "version": version,
            "export": manifest.model_dump(exclude={"files"}),
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
