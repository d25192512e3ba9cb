"""``recvae similar``: the items most like one item."""

from typing import Annotated

import typer

from recvae.cli.items import find_items, item_rows, items_table, unknown_items
from recvae.cli.options import (
    Allow,
    AllowTag,
    Debug,
    Deny,
    DenyTag,
    Device,
    Json,
    K,
    ModelFolder,
    Quiet,
    TagsFrom,
    Threads,
)
from recvae.cli.rules import Words
from recvae.cli.terminal import Terminal
from recvae.cli.threads import use_threads_of
from recvae.files import JsonObject


def similar(
    run: ModelFolder,
    item: Annotated[
        list[str], typer.Option(metavar="ID_OR_TITLE", help="An item; may be repeated.", show_default=False)
    ],
    k: K = 10,
    allow: Allow = None,
    deny: Deny = None,
    allow_tag: AllowTag = None,
    deny_tag: DenyTag = None,
    dataset: TagsFrom = None,
    device: Device = "auto",
    threads: Threads = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print the items most like one item, by the model; of several, those of each.

    [dim]recvae similar runs/ml-1m-recvae --item 'toy story' --item 'matrix, the'[/]
    """
    number = use_threads_of(run, threads)  # before torch is loaded
    from recvae.errors import InputError
    from recvae.serving.model import load_model

    terminal = Terminal(json=json, quiet=quiet)
    model = load_model(run, device, number)
    columns, unknown = find_items(model, item)
    if not columns:
        raise InputError(unknown_items(model, unknown))
    if unknown:
        terminal.warn(f"{unknown_items(model, unknown)} Skipped.")
    rules = Words(allow, deny, allow_tag, deny_tag, dataset).rules(terminal, model, run)
    ids, scores = model.similar_items(columns, k, allow=rules.allow, deny=rules.deny)
    answers: list[JsonObject] = []
    for column, of_ids, of_scores in zip(columns, ids, scores, strict=True):
        rows = item_rows(model, of_ids, of_scores)
        asked = {"item_id": model.items.ids[column], "title": model.items.titles[column]}
        terminal.note(f"{chr(10) if answers else ''}Most like {asked['title'] or asked['item_id']}:")
        terminal.result(items_table(rows, "score") if rows else "No item is left to list.")
        answers.append({"item": asked, "similar": rows})
    document = answers[0] if len(item) == 1 else {"items": answers, "unknown_items": unknown}
    terminal.document({**document, **rules.asked})
