"""``recvae prepare``: from ratings to a dataset folder."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import Debug, Json, Overwrite, Quiet
from recvae.cli.output import check_folder
from recvae.cli.terminal import Terminal, amount

if TYPE_CHECKING:
    from data_prep.dataset import Dataset

_FILE, _FILTERS, _SPLIT = "A file's form", "Filters", "Split"
_FILTERED = {  # what the filters took, by the manifest's words; the rest of what was dropped is the split's doing
    "rows_below_min_rating": "below the minimum rating",
    "duplicate_clicks": "duplicate clicks",
    "clicks_of_rare_items_or_users": "clicks of users or items with too few",
}


def prepare(
    source_name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="A known dataset (see 'recvae info'), or a CSV, TSV or Parquet file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The dataset folder to write.", show_default=False)],
    source: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="A known dataset's archive, or the folder it unpacks to: no download."),
    ] = None,
    user_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of users.", rich_help_panel=_FILE)
    ] = None,
    item_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of items.", rich_help_panel=_FILE)
    ] = None,
    rating_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of ratings.", rich_help_panel=_FILE)
    ] = None,
    time_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The column of times.", rich_help_panel=_FILE)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="The names of all columns, for a file without a header.", rich_help_panel=_FILE
        ),
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Such as ',' or '::'; guessed if not given.", rich_help_panel=_FILE),
    ] = None,
    titles: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Item ids and titles, and tags in a third column.", rich_help_panel=_FILE),
    ] = None,
    min_rating: Annotated[
        float | None,
        typer.Option(metavar="X", help="Keep ratings from X on; known datasets: 4.", rich_help_panel=_FILTERS),
    ] = None,
    min_items_per_user: Annotated[
        int, typer.Option(metavar="N", help="Keep users with at least N items.", rich_help_panel=_FILTERS)
    ] = 5,
    min_users_per_item: Annotated[
        int, typer.Option(metavar="N", help="Keep items with at least N users.", rich_help_panel=_FILTERS)
    ] = 0,
    k_core: Annotated[
        bool, typer.Option("--k-core", help="Repeat both until nothing changes.", rich_help_panel=_FILTERS)
    ] = False,
    split: Annotated[
        str, typer.Option(metavar="METHOD", help="strong, random, last-out or temporal.", rich_help_panel=_SPLIT)
    ] = "strong",
    held_out_users: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Users for validation and as many for test (strong); the papers' number, else a tenth.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    held_out_share: Annotated[
        float, typer.Option(metavar="X", help="Share of their clicks to be ranked.", rich_help_panel=_SPLIT)
    ] = 0.2,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the split.", rich_help_panel=_SPLIT)] = 98765,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read, filter and split clicks, and write a dataset folder.

    [dim]recvae prepare ml-1m --out ml-1m[/]
    [dim]recvae prepare clicks.csv --user-column user --item-column item --out clicks[/]
    """
    from data_prep import prepare as read_and_split

    terminal = Terminal(json=json, quiet=quiet)
    check_folder(out, marker="manifest.json", overwrite=overwrite)
    with terminal.amounts(bytes=True) as progress:
        data = read_and_split(
            source_name,
            source=source,
            user_column=user_column,
            item_column=item_column,
            rating_column=rating_column,
            time_column=time_column,
            min_rating=min_rating,
            min_items_per_user=min_items_per_user,
            min_users_per_item=min_users_per_item,
            k_core=k_core,
            split=split,
            held_out_users=held_out_users,
            held_out_share=held_out_share,
            titles=titles,
            columns=None if columns is None else [name.strip() for name in columns.split(",")],
            separator=None if separator is None else separator.replace("\\t", "\t"),
            seed=seed,
            progress=progress,
        )
    data.save(out, overwrite=overwrite)
    about = data.describe()
    terminal.note(*summary(data, about), f"\nWritten to {out}.")
    terminal.next(*next_commands(out, data.name))
    terminal.document({"folder": str(out), "dataset": about})


def next_commands(folder: Path, name: str) -> list[str]:
    """Return what one does with a new dataset folder."""
    where = shlex.quote(str(folder))
    return [
        f"recvae train {where} --model recvae --out {shlex.quote(f'runs/{name}-recvae')}",
        f"recvae benchmark {where} --out {shlex.quote(f'benchmarks/{name}')}",
    ]


def summary(data: "Dataset", about: dict[str, Any]) -> list[str]:
    """Return lines that say what was read, dropped and kept, and how it was split."""
    manifest = data.manifest
    source, splits = manifest.get("source", {}), about["splits"]
    before, dropped = manifest.get("before_split", {}), manifest.get("dropped", {})
    lines = [f"{data.name}{' from ' + source['file'] if source.get('file') else ''}", ""]
    if before:
        lines.append(_line("read", amount(before["clicks"] + sum(dropped.get(key, 0) for key in _FILTERED), "row")))
        reasons = [f"{dropped[key]:,} {words}" for key, words in _FILTERED.items() if dropped.get(key)]
        lines.append(_line("dropped", "; ".join(reasons) or "nothing"))
        kept = (amount(before[key], key[:-1]) for key in ("clicks", "users", "items"))
        lines.append(_line("kept", ", ".join(kept)))
    train = splits["train"]
    lines.append(
        _line(
            "training",
            f"{amount(train['clicks'], 'click')}, {amount(train['users'], 'user')}, "
            f"{amount(about['items'], 'item')} ({100 * train['density']:.2g} % of all pairs)",
        )
    )
    for name in ("validation", "test"):
        part = splits[name]
        shown, hidden = part["fold_in_clicks"], part["held_out_clicks"]
        line = f"{amount(part['users'], 'user')}, {shown:,} clicks shown, {hidden:,} to be found"
        if part["users_without_held_out"]:
            line += f" ({amount(part['users_without_held_out'], 'user')} without any, left out of averages)"
        lines.append(_line(name, line))
    left_out = [
        f"{count:,} {key.replace('_', ' ')}" for key, count in dropped.items() if count and key not in _FILTERED
    ]
    return [*lines, *([_line("left out", "; ".join(left_out))] if left_out else [])]


def _line(label: str, text: str) -> str:
    return f"  {label:<11} {text}"
