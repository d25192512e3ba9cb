"""``recvae prepare``: from ratings to a dataset folder."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import Debug, Json, Overwrite, Quiet
from recvae.cli.output import check_folder, hold
from recvae.cli.terminal import Terminal, amount
from recvae.files import Document

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from recvae.files import JsonObject

_FILE, _FILTERS, _SPLIT, _GIVEN = "A file's form", "Filters", "Split", "Data that arrive already split"
_LARGE = "Data larger than memory"
_AS_GIVEN = "Data that arrive already split are taken as they are"
_FILTERED = {  # rows removed by filters, by the manifest's keys; the other keys are rows dropped by the split
    "rows_below_min_rating": "below the minimum rating",
    "duplicate_clicks": "duplicate clicks",
    "clicks_of_rare_items_or_users": "clicks of users or items with too few",
}


def prepare(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The dataset folder to write.", show_default=False)],
    source_name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE",
            help="A known dataset (see 'recvae info'), a CSV, TSV or Parquet file, a folder or a quoted pattern of "
            "such files, or - for standard input.",
            show_default=False,
        ),
    ] = None,
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
    user_tags: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="User ids and, under a header, a column for each attribute, such as gender.",
            rich_help_panel=_FILE,
        ),
    ] = None,
    min_rating: Annotated[
        float | None,
        typer.Option(metavar="X", help="Keep ratings from X on; known datasets: 4.", rich_help_panel=_FILTERS),
    ] = None,
    min_items_per_user: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep users with at least N items.", show_default="5", rich_help_panel=_FILTERS),
    ] = None,
    min_users_per_item: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep items with at least N users.", show_default="0", rich_help_panel=_FILTERS),
    ] = None,
    ratings: Annotated[
        bool,
        typer.Option("--ratings", help="Keep the ratings too, also those below the minimum.", rich_help_panel=_FILTERS),
    ] = False,
    k_core: Annotated[
        bool, typer.Option("--k-core", help="Repeat both until nothing changes.", rich_help_panel=_FILTERS)
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="strong, random, last-out, temporal or time.",
            show_default="strong",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    held_out_users: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Users for validation and as many for test (strong); the papers' number, else a tenth.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    held_out_share: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Share of their clicks to be ranked.", show_default="0.2", rich_help_panel=_SPLIT
        ),
    ] = None,
    cutoff: Annotated[
        str | None,
        typer.Option(
            metavar="DATE|SHARE",
            help="Split time: train on clicks before it, test on clicks from it on.",
            show_default="0.8 of the clicks",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    first_clicks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Split time: clicks from which a new user is ranked, at most.",
            show_default="5",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training clicks: a table whose columns are named, or lines of 'user item item ...'.",
            rich_help_panel=_GIVEN,
        ),
    ] = None,
    test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Test clicks, in the same form.", rich_help_panel=_GIVEN),
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of each user's training clicks cut off for validation; split time: of all before the cutoff.",
            show_default="0.1",
            rich_help_panel=_GIVEN,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Take about this much memory, such as 2GB, and temporary files for the rest; needs DuckDB.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    temp: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder for temporary files; where DIR is written, if not given.",
            rich_help_panel=_LARGE,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the split.", rich_help_panel=_SPLIT)] = 98765,
    name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What to call the dataset; its source's name if not given."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read, filter and split clicks, and write a dataset folder.

    [dim]recvae prepare ml-1m --out ml-1m[/]
    [dim]recvae prepare clicks.csv --user-column user --item-column item --out clicks[/]
    [dim]recvae prepare --train gowalla/train.txt --test gowalla/test.txt --out gowalla-given[/]
    [dim]recvae prepare 'clicks/*.parquet' --memory 2GB --user-column user --item-column item --out clicks[/]
    """
    from data_prep import prepare as read_and_split
    from data_prep import prepare_given, prepare_large
    from data_prep.parts import find_parts
    from recvae.errors import InputError

    terminal = Terminal(json=json, quiet=quiet)
    options: dict[str, Any] = {  # options of both forms of data
        "user_column": user_column,
        "item_column": item_column,
        "rating_column": rating_column,
        "min_rating": min_rating,
        "titles": titles,
        "user_tags": user_tags,
        "columns": None if columns is None else [name.strip() for name in columns.split(",")],
        "separator": None if separator is None else separator.replace("\\t", "\t"),
        "seed": seed,
        "name": name,
        "warn": terminal.warn,
    }
    of_splitting: dict[str, Any] = {
        "source": source,
        "time_column": time_column,
        "min_items_per_user": min_items_per_user,
        "min_users_per_item": min_users_per_item,
        "k_core": k_core or None,
        "split": split,
        "held_out_users": held_out_users,
        "held_out_share": held_out_share,
        "ratings": ratings or None,
        "cutoff": cutoff,
        "first_clicks": first_clicks,
    }
    if split == "time":
        of_splitting["validation_share"] = validation_share
    of_splitting = {name: value for name, value in of_splitting.items() if value is not None}
    shares: dict[str, Any] = (
        {} if validation_share is None or split == "time" else {"validation_share": validation_share}
    )
    given = _given(source_name, train, test, of_splitting, shares)
    parts = None if source_name is None else find_parts(source_name)
    hold(out, source_name, source, titles, user_tags, train, test, *(parts.files if parts else ()))
    check_folder(out, marker="manifest.json", overwrite=overwrite)
    large = None if memory is None and temp is None else _large(memory, temp, source_name, given, of_splitting)
    with terminal.amounts(bytes=True) as progress:
        if large is not None and source_name is not None:
            data = prepare_large(
                source_name, out, **large, **options, **of_splitting, overwrite=overwrite, progress=progress
            )
        elif given is not None:
            data = prepare_given(given[0], given[1], **options, **shares, progress=progress)
        elif source_name is not None:
            data = read_and_split(source_name, **options, **of_splitting, progress=progress)
        else:
            raise InputError(
                "Name a known dataset or a file, or give --train and --test; 'recvae info' lists the known datasets."
            )
    if large is None:
        data.save(out, overwrite=overwrite)
    about = data.describe()
    terminal.note(*summary(data, about), f"\nWritten to {out}.")
    terminal.next(*next_commands(out, data))
    terminal.document({"folder": str(out), "dataset": about})


def _large(
    memory: str | None, temp: Path | None, name: str | None, given: object, of_splitting: Mapping[str, object]
) -> "JsonObject":
    """Return the options of preparing in limited memory; raise for options that it does not have."""
    from recvae.errors import InputError

    if memory is None:
        raise InputError("--temp belongs to --memory: clicks that are read into memory need no temporary files.")
    if given is not None or name is None:
        raise InputError(
            "--memory takes a file, a folder or a pattern of files: data that arrive split fit into memory."
        )
    for option in ("source", "ratings", "cutoff", "first_clicks"):
        if option in of_splitting:
            spelled = option.replace("_", "-")
            raise InputError(f"--memory and --{spelled} do not go together: leave one of them out.")
    return {"memory": memory, "temp": temp}


def _given(
    name: str | None,
    train: Path | None,
    test: Path | None,
    of_splitting: Mapping[str, object],
    shares: Mapping[str, float],
) -> tuple[Path, Path] | None:
    """Return the two files of data that arrive split, None for other data; raise for options that do not combine."""
    from recvae.errors import InputError

    if train is None and test is None:
        if shares:
            raise InputError(
                "--validation-share belongs to --train and --test, and to --split time; other splits have "
                "--held-out-share."
            )
        return None
    if train is None or test is None:
        lacks, has = ("--train", "--test") if train is None else ("--test", "--train")
        raise InputError(f"{has} needs {lacks}: data that arrive already split are two files.")
    if name is not None:
        raise InputError(f"Give either '{name}' or --train and --test, not both.")
    if of_splitting:
        listed = ", ".join(f"--{option.replace('_', '-')}" for option in of_splitting)
        hint = " The share cut off for validation is --validation-share." if "held_out_share" in of_splitting else ""
        raise InputError(f"{_AS_GIVEN}: leave out {listed}.{hint}")
    return train, test


def next_commands(folder: Path, data: "Dataset") -> list[str]:
    """Return the next commands for a dataset folder: train the model for its size, and compare all models."""
    from recvae.config import shipped_for
    from recvae.defaults import Size, recommended

    where, model = shlex.quote(str(folder)), recommended(Size.of_training(data.manifest))
    known = shipped_for(data.manifest, model)
    settings = f"--model {model}" if known is None else f"--config {known}"
    return [
        f"recvae train {where} {settings} --out {shlex.quote(f'runs/{data.name}-{model}')}",
        f"recvae benchmark {where} --out {shlex.quote(f'benchmarks/{data.name}')}",
    ]


def summary(data: "Dataset", about: Document) -> list[str]:
    """Return lines about the rows that were read, dropped and kept, and about the split."""
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
        unseen = [
            f"{before[f'{key}_only_in_test']:,} {key}" for key in ("users", "items") if f"{key}_only_in_test" in before
        ]
        if unseen:
            lines.append(_line("test only", f"{' and '.join(unseen)} that training does not have"))
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
        if "arrivals" in manifest:
            lines.append(_line("", arrivals_in_words(manifest["arrivals"][name], part["users"])))
    if "ratings" in manifest:
        lines.append(_line("ratings", f"{sum(manifest['ratings'].values()):,} of these users and items, kept beside"))
    left_out = [
        f"{count:,} {key.replace('_', ' ')}" for key, count in dropped.items() if count and key not in _FILTERED
    ]
    return [*lines, *([_line("left out", "; ".join(left_out))] if left_out else [])]


def arrivals_in_words(found: Document, users: int) -> str:
    """Return a part's new users, and the shares of its held-out clicks that they and new items have."""
    clicks = found["clicks_of_new_users"] + found["clicks_of_known_users"]
    shares = [100 * found[key] / clicks if clicks else 0.0 for key in ("clicks_of_new_users", "clicks_on_new_items")]
    return (
        f"{found['new_users']:,} of {amount(users, 'user')} are new, with {shares[0]:.3g} % of the clicks to be found; "
        f"{shares[1]:.3g} % are on items that training never saw"
    )


def _line(label: str, text: str) -> str:
    return f"  {label:<11} {text}"
