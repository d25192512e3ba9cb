"""Lists for millions of users: ``recvae recommend`` from a folder of histories, or into a folder of lists."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recvae.cli.items import listed
from recvae.cli.output import SUFFIXES
from recvae.cli.terminal import Interrupted, Terminal, amount
from recvae.errors import FormatError, InputError
from recvae.files import JsonObject
from recvae.files.swap import next_of

if TYPE_CHECKING:
    from recvae.serving.model import Model

EVERY = 10.0  # seconds between two lines of progress where there is no terminal


def by_parts(histories: Path | None, out: Path | None) -> bool:
    """Return whether lists go part by part: --histories is a folder, or --out is one or a name without a suffix.

    Raises :class:`InputError` for a folder of histories with a file of lists.
    """
    if histories is None:
        return False
    folder = out is not None and (out.is_dir() or not out.suffix)
    if histories.is_dir() and (out is None or out.suffix in SUFFIXES):
        raise InputError(
            f"{histories} is a folder, whose lists are a folder too: name one with --out, such as --out lists."
        )
    return histories.is_dir() or folder


def begun_with(out: Path) -> str:
    """Return the number of threads with which the lists of ``out`` were begun, or ``auto``."""
    from recvae.serving.lists.ledger import LEDGER, Ledger

    for folder in (next_of(out), out):
        if (folder / LEDGER).is_file():
            try:
                return str(Ledger.read(folder).settings.get("threads", "auto"))
            except FormatError:
                return "auto"  # reading it again raises the error
    return "auto"


@dataclass(frozen=True)
class Parts:
    """The options of lists that go part by part."""

    histories: Path
    out: Path
    k: int
    user_column: str
    item_column: str
    rating_column: str | None
    condition_columns: list[str]
    wide: bool
    sort: bool
    resume: bool
    overwrite: bool


def write_parts(
    terminal: Terminal,
    model: "Model",
    run: Path,
    options: Parts,
    asked: JsonObject,
    rules: JsonObject,
    threads: int,
) -> None:
    """Write the lists and say how many there are; ``rules``: arguments of ``write_lists``, ``asked``: their words."""
    from recvae.serving.lists.walk import write_lists
    from recvae.serving.reload import version_of

    try:
        with terminal.amounts() as bar, _lines(terminal) as line:

            def progress(what: str, done: int, total: int | None) -> None:
                bar(what, done, total)
                line(what, done, total)

            written = write_lists(
                model,
                options.histories,
                options.out,
                options.k,
                user_column=options.user_column,
                item_column=options.item_column,
                rating_column=options.rating_column,
                condition_columns=options.condition_columns,
                wide=options.wide,
                sort=options.sort,
                resume=options.resume,
                overwrite=options.overwrite,
                version=version_of(run),
                arithmetic={"device": str(model.device), "threads": threads},
                progress=progress,
                **rules,
            )
    except KeyboardInterrupt:
        if not next_of(options.out).exists():
            raise
        raise Interrupted("Stopped. The parts that are finished are kept: go on with --resume.") from None
    counts = written.counts
    if counts.unknown:
        such_as = listed([f"'{item}'" for item in counts.such_as])
        terminal.warn(
            f"{counts.unknown:,} of {amount(counts.clicks, 'item')} in the histories are not in the model's catalogue, "
            f"such as {such_as}. Skipped."
        )
    if counts.empty:
        terminal.warn(f"Nothing is listed for {amount(counts.empty, 'user')}: the rules leave no item.")
    kept = f" {amount(written.kept, 'part')} had been finished before." if written.kept else ""
    terminal.note(
        f"Wrote {amount(counts.rows, 'item')} for {amount(counts.users, 'user')} to {options.out}, "
        f"{amount(written.parts, 'part')}.{kept}"
    )
    terminal.document(
        {
            "folder": str(options.out), "parts": written.parts, "parts_kept": written.kept, "users": counts.users,
            "items_listed": counts.rows, "empty_lists": counts.empty, "clicks": counts.clicks,
            "unknown_clicks": counts.unknown, "unknown_items": counts.such_as, **asked,
        }
    )  # fmt: skip


@contextmanager
def _lines(terminal: Terminal) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield ``progress(what, done, total)`` that prints a line now and then where there is no terminal for a bar."""
    began: dict[str, tuple[float, int]] = {}
    said = [time.monotonic()]

    def line(what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        start, before = began.setdefault(what, (now, done))
        if terminal.err.is_terminal or now - said[0] < EVERY or not total:
            return
        said[0] = now
        rate = (done - before) / (now - start) if now > start else 0.0
        left = f", {rate:,.0f}/s, {duration((total - done) / rate)} left" if rate else ""
        terminal.say(f"{what}: {done:,} of {total:,}{left}")

    yield line


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
