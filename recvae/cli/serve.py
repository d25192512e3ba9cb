"""``recvae serve``: a trained model that answers over HTTP, with a page to try it."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from recvae.cli.options import Debug, Device, Quiet, Threads
from recvae.cli.terminal import Terminal
from recvae.cli.threads import use_threads, use_without_torch

_LIMITS = "Limits"
_EXTRA = ("fastapi", "uvicorn", "httptools", "prometheus_client")


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN|EXPORT...",
            help="Run folders that 'recvae train' wrote, or exports of 'recvae export'.",
            show_default=False,
        ),
    ],
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen at; 0: a free one.")] = 8000,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes, each with the models in its memory.")] = 1,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file with the token that every request must bring.")
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everybody ask who can reach --host.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Notice a new run in the place of a served one.")
    ] = True,
    access_log: Annotated[
        bool, typer.Option("--access-log/--no-access-log", help="A line of JSON on stdout for each request.")
    ] = True,
    max_k: Annotated[int, typer.Option(metavar="N", help="Items in a list.", rich_help_panel=_LIMITS)] = 1000,
    max_history: Annotated[
        int, typer.Option(metavar="N", help="Items in a history.", rich_help_panel=_LIMITS)
    ] = 10_000,
    max_batch: Annotated[int, typer.Option(metavar="N", help="Queries in a batch.", rich_help_panel=_LIMITS)] = 256,
    max_body: Annotated[int, typer.Option(metavar="BYTES", help="Bytes in a body.", rich_help_panel=_LIMITS)] = 1 << 20,
    max_queue: Annotated[
        int, typer.Option(metavar="N", help="Questions that may wait.", rich_help_panel=_LIMITS)
    ] = 1024,
    rows_at_once: Annotated[
        int, typer.Option(metavar="N", help="Histories ranked together.", rich_help_panel=_LIMITS)
    ] = 64,
    device: Device = "auto",
    threads: Threads = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve trained models over HTTP, and a page to try them, until Ctrl-C or SIGTERM.

    [dim]recvae serve runs/ml-1m-recvae[/]
    [dim]recvae serve exports/ml-1m-recvae[/]
    [dim]recvae serve films=runs/ml-1m-recvae books=runs/books-ease --port 8080[/]
    [dim]recvae serve runs/ml-1m-recvae --host 0.0.0.0 --token-file token.txt --workers 2[/]
    """
    need_extra()
    from recvae.errors import InputError

    if workers > 1 and os.name != "posix":
        raise InputError("--workers needs a POSIX system; here one process serves. Leave the option out.")
    number, folders = _threads(threads, workers), named(runs)
    if workers == 1:
        _use_threads(number, folders.values())  # before torch is loaded
    from recvae.serving.logs import Log
    from recvae.serving.server import listen, url
    from recvae.serving.server import serve as serve_here
    from recvae.serving.settings import Settings, read_token
    from recvae.serving.workers import Facts, Workers

    terminal = Terminal(quiet=quiet)
    settings = Settings(
        runs=folders,
        host=host,
        port=port,
        workers=workers,
        device=device,
        threads=number,
        token=None if token_file is None else read_token(token_file),
        no_auth=no_auth,
        watch=watch,
        access_log=access_log,
        max_k=max_k,
        max_history=max_history,
        max_batch=max_batch,
        max_body=max_body,
        max_queue=max_queue,
        rows_at_once=rows_at_once,
    )
    listener = listen(settings.host, settings.port)
    address = url(listener)

    log = Log()

    def said(facts: Facts) -> None:
        for name, title, n_items, version in facts:
            terminal.say(f"{name}: {title}, {n_items:,} items, version {version}.")
        terminal.say(f"Serving at {address} until Ctrl-C.")
        log.write("ready", url=address)

    with listener:
        if workers > 1:
            raise typer.Exit(Workers(settings, listener, log).run(said))
        raise typer.Exit(serve_here(settings, listener, log, lambda service: said(service.facts())))


def _threads(asked: str, workers: int) -> int:
    """Return how many threads each process ranks with: a core is left to the connections."""
    from recvae.training import threads

    number = threads.parse(asked)
    if number is not None:
        return number
    if "OMP_NUM_THREADS" in os.environ and os.environ["OMP_NUM_THREADS"].isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    return max(1, threads.cores() // workers - 1)


def _use_threads(number: int, folders: Iterable[Path]) -> None:
    """Set the number of threads; torch is imported where one of the folders is a run's."""
    from recvae.serving.model import need_torch
    from recvae.training.export_folder import is_export

    runs = [folder for folder in folders if not is_export(folder)]
    for run in runs:
        need_torch(run)
    if runs:
        use_threads(str(number))
    else:
        use_without_torch(number)


def need_extra() -> None:
    """Raise :class:`InputError` where the packages of the service are not installed."""
    from recvae.arguments import need_packages

    need_packages("The service", *_EXTRA, install="'recvae[serve]'")


def named(runs: list[str]) -> dict[str, Path]:
    """Return run folders by name: NAME=RUN, or the folder's own name."""
    import re

    from recvae.errors import InputError

    found: dict[str, Path] = {}
    for text in runs:
        name, equals, folder = text.partition("=")
        path = Path(folder) if equals and not Path(text).exists() else Path(text)
        if path == Path(text):
            name = path.resolve().name
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise InputError(
                f"'{name}' cannot be a model's name in an address. Give it one of letters, digits, '.', '_' and '-': "
                f"films={path}"
            )
        if name in found:
            raise InputError(f"Two runs are called '{name}'. Give each a name of its own: NAME=RUN.")
        found[name] = path
    return found
