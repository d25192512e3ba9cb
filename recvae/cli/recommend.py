"""``recvae recommend``: ranked items for histories from a file, or for items named on the command line."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.blocks import Block
from recvae.cli.items import find_items, item_rows, items_table, unknown_items
from recvae.cli.lists import Parts, begun_with, by_parts, write_parts
from recvae.cli.options import (
    Allow,
    AllowEach,
    AllowTag,
    Debug,
    Deny,
    DenyEach,
    DenyTag,
    Device,
    Diversity,
    Json,
    K,
    ModelFolder,
    MostPerTag,
    Overwrite,
    Quiet,
    TagsFrom,
    Threads,
)
from recvae.cli.output import check_output, hold, write_blocks
from recvae.cli.rules import Words
from recvae.cli.terminal import Terminal, amount
from recvae.cli.threads import use_threads_of

if TYPE_CHECKING:
    from recvae.queries import Query
    from recvae.serving.model import Model

_BLOCK = 16_384  # users ranked at a time: bounds memory and gives progress something to show
_EXPLAINED = 128  # users at a time with reasons, which take longer
_SHOWN = 3  # users on the terminal
_PARTS = "Lists in a folder (histories of any size; a file of lists for each file of histories)"


def recommend(
    run: ModelFolder,
    histories: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="CSV or Parquet, or - for standard input: a row per user and item; or a folder of such files.",
        ),
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="ID_OR_TITLE", help="An item clicked (or liked), for one user; may be repeated."),
    ] = None,
    k: K = 20,
    user_column: Annotated[str, typer.Option(metavar="NAME", help="The file's column of users.")] = "user",
    item_column: Annotated[
        str,
        typer.Option(metavar="NAME", help="The column of items, of --histories and of files of rules."),
    ] = "item",
    rating_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The file's column of ratings, for a model that was trained on ratings."),
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What is wanted, or of whom: Comedy, gender=F; may be repeated."),
    ] = None,
    allow: Allow = None,
    deny: Deny = None,
    allow_tag: AllowTag = None,
    deny_tag: DenyTag = None,
    dataset: TagsFrom = None,
    allow_each: AllowEach = None,
    deny_each: DenyEach = None,
    most_per_tag: MostPerTag = None,
    diversity: Diversity = 0.0,
    reasons: Annotated[
        int,
        typer.Option(metavar="N", help="For each item, N items of the history that raised it most, at most 100."),
    ] = 0,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Rank the items of the history too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="Write to a .parquet, .csv or .jsonl file; without such an ending, to a folder."
        ),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where it was stopped, to the same bytes.", rich_help_panel=_PARTS)
    ] = False,
    sort: Annotated[
        bool,
        typer.Option(
            "--sort", help="Sort by user on the disk first: for users in several files.", rich_help_panel=_PARTS
        ),
    ] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="A row per user with list columns (Parquet).", rich_help_panel=_PARTS)
    ] = False,
    condition_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A column of each user's conditions, or of an attribute's values; may be repeated.",
            rich_help_panel=_PARTS,
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank items for users, also ones the model never saw, from what they clicked.

    [dim]recvae recommend runs/ml-1m-recvae --item 'toy story' --item 'matrix, the'[/]
    [dim]recvae recommend runs/ml-1m-recvae --histories clicks.csv --out recommended.parquet[/]
    [dim]recvae recommend runs/ml-1m-conditional --item 'toy story' --condition Comedy[/]
    [dim]recvae recommend runs/ml-1m-recvae --item 'toy story' --allow in-stock.csv --deny-tag Horror[/]
    [dim]recvae recommend runs/ml-1m-recvae --item 'toy story' --most-per-tag 3 --diversity 0.3[/]
    [dim]recvae recommend runs/ml-1m-recvae --item 'toy story' --item 'matrix, the' --reasons 3[/]
    [dim]recvae recommend runs/ml-1m-recvae --histories all-users/ --out lists/ -k 100[/]
    """
    parts = by_parts(histories, out)
    begun = begun_with(out) if parts and resume and threads == "auto" and out is not None else threads
    number = use_threads_of(run, begun)  # before torch is loaded
    from recvae.errors import InputError
    from recvae.matrices import Rows
    from recvae.queries import MOST_REASONS, Query
    from recvae.serving.model import load_model

    terminal = Terminal(json=json, quiet=quiet)
    words = Words(allow, deny, allow_tag, deny_tag, dataset, most_per_tag, diversity, allow_each, deny_each)
    if (histories is None) == (not item):
        raise InputError("Name the clicked items with --histories FILE or with --item ID_OR_TITLE, one of the two.")
    if histories is None and not (allow_each is None and deny_each is None):
        raise InputError("--allow-each and --deny-each are about the users of --histories. Use --allow and --deny.")
    if not parts and (resume or sort or wide or condition_column):
        raise InputError(
            "--resume, --sort, --wide and --condition-column are for lists in a folder: name it with --out DIR."
        )
    if k < 1:
        raise InputError(f"-k must be at least 1, and is {k}.")
    if not 0 <= reasons <= MOST_REASONS:
        raise InputError(f"--reasons must be from 0 to {MOST_REASONS}, and is {reasons}.")
    if out is not None:
        hold(out, run, histories, *words.inputs())
        if not parts:
            check_output(out, overwrite=overwrite)
    model = load_model(run, device, number)
    _check_ratings(model, run, histories, rating_column)
    if condition:
        model.encode_conditions([condition])  # said before a file is read: a condition that there is not
    rules = words.rules(terminal, model, run, item_column)
    if parts and histories is not None and out is not None:
        names = user_column, item_column, rating_column, condition_column or []
        options = Parts(histories, out, k, *names, wide, sort, resume, overwrite)
        found, each = words.tables(terminal, model, rules, user_column, item_column)
        more = {**found, **words.reranking(), "each": each, "conditions": condition or None}
        more |= {"exclude_seen": not include_seen, "reasons": reasons}
        write_parts(terminal, model, run, options, rules.asked, more, number)
        return
    users: Sequence[str | None] = [None]
    if histories is not None:
        users, clicks, unknown = _read(terminal, model, histories, user_column, item_column, rating_column)
    else:
        columns, unknown = find_items(model, item or [])
        if not columns:
            raise InputError(unknown_items(model, unknown))
        clicks = Rows.of_lists([sorted(columns)], model.n_items, model.named_value)
    if unknown:
        terminal.warn(f"{unknown_items(model, unknown)} Skipped.")
    asked = {**({"conditions": condition} if condition else {}), **rules.asked}
    width = min(k, model.n_items)
    each = words.each(terminal, model, [user or "" for user in users], rules, user_column, item_column)
    more = {**each, **words.reranking()}
    query = Query(clicks, width, not include_seen, conditions=condition or None, reasons=reasons, **more)
    blocks = _answered(terminal, model, users, query)
    if out is not None:
        rows = write_blocks(out, model.items, blocks, reasons)
        terminal.note(f"Wrote {amount(rows, 'row')} for {amount(len(users), 'user')} to {out}.")
        terminal.document({"file": str(out), "users": len(users), "rows": rows, "unknown_items": unknown, **asked})
        return
    if json:
        answers = [
            {"user": user, "items": item_rows(model, block.ids[row], block.scores[row], block.reasons, row)}
            for block in blocks
            for row, user in enumerate(block.users)
        ]
        terminal.document({"users": answers, "unknown_items": unknown, **asked})
        return
    _show(terminal, model, users, clicks, next(blocks), condition or [])


def _check_ratings(model: "Model", run: Path, histories: Path | None, rating_column: str | None) -> None:
    """Raise :class:`InputError` where a column of ratings is missing or means nothing."""
    from recvae.errors import InputError

    if rating_column is not None and not model.of_ratings:
        raise InputError(f"{run} was trained on clicks, to which a rating says nothing: leave --rating-column out.")
    if rating_column is not None and histories is None:
        raise InputError("--rating-column is a column of --histories; items named with --item count as liked.")
    if histories is not None and rating_column is None and model.of_ratings:
        raise InputError(f"{run} was trained on ratings: name the column of {histories} with --rating-column.")


def _read(
    terminal: Terminal,
    model: "Model",
    file: Path,
    user_column: str,
    item_column: str,
    rating_column: str | None,
) -> tuple[list[str], Any, list[str]]:
    """Return a file's users in order of first appearance, their clicks or ratings (CSR), and the items not known."""
    import numpy as np

    from data_prep import read_interactions
    from recvae.errors import DataError
    from recvae.matrices import Rows

    with terminal.amounts(bytes=True) as progress:
        data, _ = read_interactions(
            file, user_column, item_column, rating_column=rating_column, progress=progress
        ).without_duplicates()
    values = np.ones(len(data)) if data.rating is None else data.rating
    if not (values > 0).all():
        raise DataError(
            f"{data.label} has a rating of {values.min():g} in its column '{rating_column}'; they must be above 0."
        )
    column_of = np.array([model.items.columns.get(item, -1) for item in data.item_ids], dtype=np.int64)
    columns = column_of[data.item]
    known = columns >= 0
    entries = values[known].astype(np.float32), data.user[known], columns[known]
    clicks = Rows.of_entries(*entries, shape=(len(data.user_ids), model.n_items))
    return data.user_ids.tolist(), clicks, data.item_ids[column_of < 0].tolist()


def _answered(terminal: Terminal, model: "Model", users: Sequence[str | None], query: "Query") -> Iterator[Block]:
    """Answer a query, a block of users at a time."""
    with terminal.amounts() as progress:
        at_once = _EXPLAINED if query.reasons else _BLOCK
        for start in range(0, len(users), at_once):
            stop = min(len(users), start + at_once)
            answer = model.answer(query.of(slice(start, stop)))
            if len(users) > at_once:
                progress("rank users", stop, len(users))
            yield Block(users[start:stop], answer.ids, answer.scores, answer.reasons)


def _show(
    terminal: Terminal,
    model: "Model",
    users: Sequence[str | None],
    clicks: Any,
    block: Block,
    conditions: Sequence[str],
) -> None:
    """Print the first users' lists."""
    asked = f", asked for {', '.join(conditions)}" if conditions else ""
    for row, user in enumerate(block.users[:_SHOWN]):
        seen = clicks[[row]].indices
        names = [model.items.titles[i] or model.items.ids[i] for i in seen[:_SHOWN]]
        more = f" and {len(seen) - _SHOWN:,} more" if len(seen) > _SHOWN else ""
        after = f"after {', '.join(names)}{more}" if names else "who has no known item: what is liked in general"
        terminal.note(f"\nFor {'you' if user is None else f'user {user}'}, {after}{asked}:")
        rows = item_rows(model, block.ids[row], block.scores[row], block.reasons, row)
        terminal.result(items_table(rows) if rows else "No item is left to list.")
        if rows and block.reasons is not None and not any(item["reasons"] for item in rows):
            terminal.note("No item of the history raises any of these: none would score less without it.")
    if len(users) > _SHOWN:
        rest = len(users) - _SHOWN
        are = "user is" if rest == 1 else "users are"
        terminal.note(f"{rest:,} more {are} not shown. Write all lists with --out lists.parquet")
