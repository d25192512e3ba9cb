"""The command line: one file per verb, and the function that turns errors into sentences and exit statuses.

Neither torch nor pandas is imported here or at the top of a verb's file, so that ``recvae --help`` is fast.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from recvae import __version__
from recvae.cli import across
from recvae.cli.backtest import backtest
from recvae.cli.benchmark import benchmark
from recvae.cli.blend import blend
from recvae.cli.diagnose import diagnose
from recvae.cli.evaluate import evaluate
from recvae.cli.export import export
from recvae.cli.info import info
from recvae.cli.output import HELD
from recvae.cli.prepare import prepare
from recvae.cli.process import drop_stdout, ended_by_signals, leave_streams, prepare_streams
from recvae.cli.promote import promote
from recvae.cli.quickstart import quickstart
from recvae.cli.recommend import recommend
from recvae.cli.serve import serve
from recvae.cli.similar import similar
from recvae.cli.terminal import Interrupted, print_error, print_traceback
from recvae.cli.threads import back_to_before
from recvae.cli.train import train
from recvae.cli.tune import tune
from recvae.cli.wording import in_options
from recvae.errors import RecvaeError, is_out_of_memory
from recvae.files.locks import doing
from recvae.shadows import refuse_shadows

__all__ = ["app", "main"]

app = typer.Typer(
    name="recvae",
    help="Variational autoencoders for collaborative filtering: prepare clicks, train, evaluate, recommend, compare.",
    epilog="New here? Run: recvae quickstart",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_VERBS = (
    quickstart,
    prepare,
    train,
    evaluate,
    diagnose,
    recommend,
    similar,
    serve,
    export,
    promote,
    blend,
    benchmark,
    backtest,
    tune,
    info,
)
for _verb in _VERBS:
    app.command()(_verb)

_SMALLER_MODEL = (
    "Use a smaller model, or for one that is trained by epochs a smaller train.batch_size. Models of all pairs of "
    "items (ease, edlae, recvae-edlae) need fewer items: recvae prepare --min-users-per-item N"
)
_FOR_LESS_MEMORY = {  # the remedy, by verb
    "prepare": "Keep fewer users or items with --min-items-per-user N and --min-users-per-item N, or prepare a part.",
    "quickstart": _SMALLER_MODEL,
    "train": _SMALLER_MODEL,
    "tune": f"{_SMALLER_MODEL} 'recvae tune --search' bounds what is tried.",
    "benchmark": f"{_SMALLER_MODEL} --models leaves some out.",
    "backtest": f"{_SMALLER_MODEL} --models leaves some out.",
    "evaluate": "Close other programs, or use a machine with more memory: the model has to be in it whole.",
    "recommend": "Ask for a smaller -k, or for some of the histories at a time; the model has to be in memory whole.",
    "export": "Close other programs, or use a machine with more memory: the model has to be in it about three times.",
    "diagnose": "Use fewer --users or --samples, or a machine with more memory: the model has to be in it whole.",
}

# click is a dependency of Typer or a part of it, by release; Typer's BadParameter is a ClickException in both.
_ClickException: Any = typer.BadParameter.__mro__[2]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"recvae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    doing.set(f"recvae {context.invoked_subcommand}")
    across.refuse(context.invoked_subcommand)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: the process's) and return the exit status.

    0: done. 1: the work failed. 2: the input cannot be used. 3: ``promote`` refused the new run. 130: Ctrl-C. 143:
    SIGTERM, and 129: SIGHUP, after the same tidying up. Every failure is one sentence on stderr.
    """
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    prepare_streams()
    with ended_by_signals() as ending:
        try:
            status = _run(given)
        finally:
            ending.anyway = True
            HELD.close()
        leave_streams()
    return 128 + ending.signal if ending.signal is not None and status == 130 else status


def _run(given: Sequence[str]) -> int:
    """Run the command line and print a sentence for an exception."""
    try:
        refuse_shadows()
        status = app(given, prog_name="recvae", standalone_mode=False)
        if status == 130:  # newer releases of Typer return 130 on Ctrl-C
            return _explain(across.of_all(KeyboardInterrupt()))
    except BaseException as error:  # noqa: BLE001 - this is the place where exceptions end
        told = across.of_all(error)
        if "--debug" in given and not isinstance(error, SystemExit):
            print_traceback(traceback.format_exc())
        return _explain(told, given[0])
    finally:
        across.leave()
        back_to_before()
    return status if isinstance(status, int) else 0


def _explain(error: BaseException, verb: str = "") -> int:
    """Print the sentence for an exception in ``verb``, and return the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        print_error("Stopped.", label="")
        return 130
    if isinstance(error, Interrupted):
        print_error(str(error), label="")
    elif isinstance(error, RecvaeError):
        print_error(in_options(str(error)))
    elif isinstance(error, _ClickException):
        print_error(_usage(error))
        return 2
    elif isinstance(error, BrokenPipeError):
        drop_stdout()  # or Python prints an error when it flushes stdout at exit
    elif is_out_of_memory(error):
        reason = f" ({text})" if (text := _one_line(error)) else ""
        print_error(f"There is not enough memory{reason}. {_FOR_LESS_MEMORY.get(verb, _FOR_LESS_MEMORY['evaluate'])}")
    elif isinstance(error, OSError) and error.strerror is not None:
        where = "the output" if error.filename is None else error.filename
        print_error(f"The operating system refused {where}: {error.strerror}. Check that place, and try again.")
    else:
        print_error(
            f"This is a bug in recvae ({type(error).__name__}: {_one_line(error)}). Run again with --debug to see "
            "where it is, and please report it."
        )
    return error.exit_code if isinstance(error, RecvaeError) else 1


def _usage(error: Any) -> str:
    """Return a mistake in the arguments as a sentence that names the command for help."""
    sentence = _one_line(error.format_message())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "recvae"
    return f"{sentence if sentence.endswith(('.', '?', '!')) else sentence + '.'} See: {path} --help"


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
