"""The output of the verbs: results on stdout, progress and warnings on stderr. No other module prints."""

import json
import os
import re
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from recvae.cli.process import Forgiving
from recvae.errors import OtherMachineWarning, RecvaeError, WorkError
from recvae.files import Document
from recvae.reports.text import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, ProgressColumn, TaskID


class Interrupted(RecvaeError):  # noqa: N818 - it is no error
    """Ctrl-C, after the results so far were saved."""

    exit_code = 130


class Terminal:
    """Prints text for a person or, with ``json``, a JSON document; ``quiet`` leaves out advice and progress."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json, self.quiet = json, quiet
        self.out, self.err = console(), console(stderr=True)
        self.notes = console(forgiving=True)

    def result(self, *parts: "RenderableType") -> None:
        """Print results, unless a JSON document takes their place.

        Raises OSError where stdout refuses, and :class:`WorkError` where it is closed.
        """
        if not self.json:
            _need_stdout()
            for part in parts:
                _print(self.out, part)

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where there is none, as in a pipe."""
        return self.out.width if self.out.is_terminal or "COLUMNS" in os.environ else None

    def lines(self, *lines: str) -> None:
        """Print lines, broken between words for a narrow terminal; the text after a label keeps its indent."""
        self.result(*(line if self.width is None else wrapped(line, self.width) for line in lines))

    def note(self, *parts: "RenderableType") -> None:
        """Print advice, if it can be printed."""
        if not self.quiet and not self.json:
            for part in parts:
                _print(self.notes, part)

    def next(self, *commands: str) -> None:
        """Print the next commands."""
        self.note("\nNext:", *(f"  {command}" for command in commands))

    def document(self, value: Document) -> None:
        """Print the JSON document, if the command has --json; errors as :meth:`result`."""
        if self.json:
            _need_stdout()
            sys.stdout.write(to_json(value) + "\n")
            sys.stdout.flush()  # so that a full disk raises here and not at exit

    def warn(self, sentence: str) -> None:
        """Print a warning on stderr, also when quiet."""
        _labelled(self.err, "Warning: ", "bold yellow", sentence)

    @contextmanager
    def warnings(self) -> Iterator[None]:
        """Print the library's own warnings as sentences; other warnings are shown as usual."""
        with warnings.catch_warnings():
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
                if issubclass(category, OtherMachineWarning):
                    self.warn(str(message))
                else:
                    others(message, category, *where)

            warnings.simplefilter("always", OtherMachineWarning)
            warnings.showwarning = show  # type: ignore[assignment]  # the arguments are passed on by position
            yield

    def say(self, sentence: str) -> None:
        """Print progress on stderr."""
        if not self.quiet:
            _print(self.err, sentence)

    def epochs(self, metric: str, *, epochs: int | None, done: int = 0, label: str = "") -> "Epochs":
        """Return a display of a training run, to be used as a context.

        ``epochs``: the number of epochs, None for a model without epochs; ``done``: those that a resumed run has done.
        """
        return Epochs(self, metric, epochs, done, label)

    @contextmanager
    def amounts(self, *, bytes: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
        """Yield ``progress(label, done, total)``: a bar per label on a terminal; elsewhere a line, for bytes only."""
        tasks: dict[str, TaskID] = {}
        if self.quiet or not self.err.is_terminal:
            named: set[str] = set()

            def line(what: str, done: int, total: int | None) -> None:
                if bytes and what not in named:
                    named.add(what)
                    self.say(f"{what} ...")

            yield line
            return
        began: dict[str, tuple[float, int]] = {}
        with _progress(self.err, bytes=bytes) as progress:

            def bar(what: str, done: int, total: int | None) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=total, about="")
                    began[what] = time.monotonic(), done
                seconds, amount_done = time.monotonic() - began[what][0], done - began[what][1]
                about = f"{amount_done / seconds:,.0f}/s" if amount_done and seconds and not bytes else ""
                progress.update(tasks[what], completed=done, total=total, about=about)

            yield bar


class Epochs:
    """The display of a training run: one bar on a terminal, one line per epoch elsewhere, nothing when quiet."""

    def __init__(self, terminal: Terminal, metric: str, epochs: int | None, done: int, label: str) -> None:
        self.terminal, self.metric, self.done, self.label = terminal, metric, done, label
        self.bar: Progress | None = None
        if not terminal.quiet and terminal.err.is_terminal:
            self.bar = _progress(terminal.err)
            self.task = self.bar.add_task(label or "training", total=epochs, completed=done, about="")

    def __enter__(self) -> "Epochs":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, done: int, total: int) -> None:
        """Show that ``done`` of an epoch's ``total`` updates are done."""
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done + done / total)

    def epoch(self, row: Document) -> None:
        """Show one epoch; ``row`` is an EpochReport as plain values."""
        self.done = row["epoch"]
        if self.bar is None:
            prefix = f"{self.label}: " if self.label else ""
            self.terminal.say(prefix + epoch_line(row, self.metric))
            return
        about = f"epoch {row['epoch']}/{row['epochs']}"
        if row["best_score"] is not None:
            about += f"  best {self.metric} {share(row['best_score'])} in epoch {row['best_epoch']}"
        self.bar.update(self.task, completed=row["epoch"], about=about)


def epoch_line(row: Document, metric: str) -> str:
    """Return one epoch as a line: losses, KL and its weight, the validation metric, a star for a new best, seconds."""
    phases: dict[str, dict[str, float]] = row["phases"]
    parts = [f"epoch {row['epoch']:>{len(str(row['epochs']))}}/{row['epochs']}"]
    for name, values in phases.items():
        parts.append(f"{'loss' if len(phases) == 1 else name} {values['loss']:.2f}")
        parts += [f"{key} {values[key]:{form}}" for key, form in (("kl", ".2f"), ("beta", ".3g")) if key in values]
    if row["score"] is not None:
        parts.append(f"{metric} {share(row['score'])}{' *' if row['best'] else '  '}")
    parts.append(f"{row['seconds']:.1f} s")
    return "  ".join(parts)


def wrapped(line: str, width: int) -> str:
    """Return a line broken between words; further lines begin where the text after a label does, or a little further.

    A label is followed by two spaces or more, or fills its column of 13 characters.
    """
    if len(line) <= width:
        return line
    label = re.match(r" *(\S+( \S+)*  +)?", line)
    assert label is not None  # it may be empty
    indent = min(len(label[0]), width // 2) if label[1] else max(4, len(label[0]))
    broken = textwrap.wrap(line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(broken)


def share(value: float) -> str:
    """Return a metric's value as the tables print it."""
    return f"{value:.4f}".removeprefix("0")


def amount(count: int, what: str) -> str:
    """Return a count with its noun, such as ``1 user`` or ``2,000 users``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def to_json(value: Document) -> str:
    """Return JSON for stdout; characters that stdout lacks and control characters are escaped."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    return visible_json(json.dumps(value, indent=2, ensure_ascii=plain, allow_nan=False))


def console(*, stderr: bool = False, forgiving: bool = False) -> "Console":
    """Return a console that prints text as it is: no markup, no highlighting of numbers, no control characters.

    Sentences, tables and bars show control characters as text (:func:`recvae.reports.text.visible`).
    A console of stderr, and a ``forgiving`` one, ignores failures to print.
    """
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    class Plain(Console):
        """Writes out control characters in text; rich's own control codes are segments of another kind."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

        def render(self, *arguments: Any, **options: Any) -> Iterator[Segment]:
            for segment in super().render(*arguments, **options):
                shown = segment.text if segment.control else visible(segment.text)
                yield segment if shown == segment.text else Segment(shown, segment.style)

    file: Any = Forgiving("stderr" if stderr else "stdout") if stderr or forgiving else None
    return Plain(file=file, markup=False, highlight=False, emoji=False)


def _need_stdout() -> None:
    if sys.stdout is None:
        raise WorkError("The result cannot be printed: stdout is closed. Send it to a file or a terminal.")


def print_traceback(text: str) -> None:
    """Print the lines of a traceback on stderr, with control characters written out, if they can be printed."""
    with suppress(OSError, ValueError):  # stderr itself may have failed
        sys.stderr.write(visible(text))


def print_error(sentence: str, *, label: str = "Error: ") -> None:
    """Print an error on stderr."""
    _labelled(console(stderr=True), label, "bold red", sentence)


def _labelled(to: "Console", label: str, style: str, sentence: str) -> None:
    from rich.text import Text

    _print(to, Text.assemble((label, style), visible(sentence)))


def _print(to: "Console", part: "RenderableType") -> None:
    """Print without breaking lines of text, so that a sentence stays one line in a pipe."""
    from rich.text import Text

    to.print(part, soft_wrap=isinstance(part, str | Text))


def _progress(to: "Console", *, bytes: bool = False) -> "Progress":
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    said = TextColumn("{task.description}", markup=False)
    about = TextColumn("{task.fields[about]}", markup=False)
    measured: list[ProgressColumn] = [DownloadColumn(), TransferSpeedColumn()] if bytes else [TimeElapsedColumn()]
    return Progress(said, BarColumn(bar_width=24), *measured, TimeRemainingColumn(), about, console=to, transient=True)


class Follower:
    """Passes a training run's steps and epochs on to the present display, if there is one."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.display: Epochs | None = None

    def step(self, done: int, total: int) -> None:
        """Show a step of the epoch."""
        if self.display is not None:
            self.display.step(done, total)

    def epoch(self, row: Document) -> None:
        """Show an epoch that is done."""
        if self.display is not None:
            self.display.epoch(row)

    def slow(self, sentence: str | None) -> None:
        """Print a warning that a run has become slow, unless it is None."""
        if sentence:
            self.terminal.warn(sentence)

    def close(self) -> None:
        """End the display."""
        if self.display is not None:
            self.display.__exit__()
            self.display = None
