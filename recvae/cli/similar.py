"""``recvae similar``: the items most like one item."""

from typing import Annotated

import typer

from recvae.cli.items import find_item, item_rows, items_table, suggestion
from recvae.cli.options import Debug, Device, Json, K, Quiet, RunFolder, Threads
from recvae.cli.terminal import Terminal
from recvae.cli.threads import use_threads


def similar(
    run: RunFolder,
    item: Annotated[str, typer.Option(metavar="ID_OR_TITLE", help="The item.", show_default=False)],
    k: K = 10,
    device: Device = "auto",
    threads: Threads = "auto",
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Print the items most like one item, by the model.

    [dim]recvae similar runs/ml-1m-recvae --item 'toy story'[/]
    """
    use_threads(threads)  # before torch is loaded
    from recvae.errors import InputError
    from recvae.recommender import load

    terminal = Terminal(json=json, quiet=quiet)
    model = load(run, device)
    column = find_item(model, item)
    if column is None:
        raise InputError(f"'{item}' is not in the model's catalogue.{suggestion(model, item)}")
    ids, scores = model.similar_items(column, k)
    rows = item_rows(model, ids[0], scores[0])
    asked = {"item_id": model.items.ids[column], "title": model.items.titles[column]}
    terminal.note(f"Most like {asked['title'] or asked['item_id']}:")
    terminal.result(items_table(rows, "score"))
    terminal.document({"item": asked, "similar": rows})
