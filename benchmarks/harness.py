"""What the timing programs share: rounds taken in turn, the machine's ceilings, records, and the common options.

Nothing but the standard library is imported at the top, since the processes whose memory is measured import this too.
"""

import argparse
import gc
import multiprocessing
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PEERS = ("irspack",)  # optional packages that only a benchmark needs
RESULTS = Path(__file__).resolve().parent / "results"
USERS, ITEMS, CLICKS = 136_677, 20_108, 9_990_682  # ML-20M after the papers' filters

Contender = Callable[[], object]
Seconds = dict[str, list[float]]
Figure = dict[str, Any]

# --- timing ------------------------------------------------------------------------------------------------------


def interleaved(contenders: Mapping[str, Contender], rounds: int = 5, warmup: int = 1) -> Seconds:
    """Run every contender once a round, in turn, and return the wall seconds of each, one per round.

    A machine that slows down or speeds up meanwhile does so for all of them. Warm-up rounds are not counted.
    """
    seconds: Seconds = {name: [] for name in contenders}
    for number in range(-warmup, rounds):
        for name, run in contenders.items():
            elapsed = timed(run)
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def timed(run: Contender) -> float:
    """Return the wall seconds of one call, with the GPU's queue empty before and after where one is in use."""
    gc.collect()  # now, and not while the clock runs
    _wait_for_gpu()
    start = time.perf_counter()
    result = run()
    _wait_for_gpu()
    elapsed = time.perf_counter() - start
    del result  # kept until the clock has stopped: giving memory back is not part of the work
    return elapsed


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return median, lowest and highest of the ratios round by round; rounds that only one has are left out."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=False)]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def against(what: str, seconds: Seconds, peer: str, *, ours: str = "ours", floor: bool = False) -> Figure:
    """Return the figure that compares ours with a peer, or with a floor: work that nothing can do without.

    The ratio is the peer's time over ours (above 1: ours is faster), or ours over the floor's (1: at the limit).
    """
    pair = (seconds[ours], seconds[peer]) if floor else (seconds[peer], seconds[ours])
    middle = medians({ours: seconds[ours], peer: seconds[peer]})
    kind = "floor" if floor else "peer"
    return {
        "what": what, "ours": middle[ours], "unit": "s", "kind": kind, "peer": peer, "theirs": middle[peer],
        **ratio(*pair),
    }  # fmt: skip


def alone(what: str, values: Sequence[float], unit: str = "s") -> Figure:
    """Return a figure without a ratio."""
    middle = statistics.median(values)
    return {"what": what, "ours": middle, "unit": unit, "kind": "alone", "low": min(values), "high": max(values)}


def beside(what: str, values: Mapping[str, Sequence[float]], peer: str, unit: str) -> Figure:
    """Return a figure of ours with the peer's next to it, without a ratio."""
    return {**alone(what, values["ours"], unit), "peer": peer, "theirs": statistics.median(values[peer])}


# --- the machine's ceilings --------------------------------------------------------------------------------------


def copy_bandwidth(device: str = "cpu", rounds: int = 5) -> float:
    """Return GB/s, bytes read plus bytes written, of copying 256 MiB."""
    import torch

    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    seconds = interleaved({"copy": lambda: target.copy_(source)}, rounds)
    return 2 * source.nbytes / medians(seconds)["copy"] / 1e9


def product_kernels(m: int, n: int, device: str = "cpu") -> "dict[str, Callable[[Tensor, Tensor], None]]":
    """Return the float32 products a @ b.T that torch has here, for a (up to m, k) and b (n, k), by name.

    Both write to memory that is there already: ``torch.mm`` to an output made beforehand; oneDNN, which makes its own,
    to tiles of 512 columns where the output is wide, so that the allocator hands the same block out again.
    """
    import torch

    out = torch.empty(m, n, device=device)

    def blas(a: "Tensor", b: "Tensor") -> None:
        torch.mm(a, b.T, out=out[: len(a)])

    def onednn(a: "Tensor", b: "Tensor") -> None:
        for tile in torch.split(b, 512) if n > 4096 else (b,):
            torch.ops.mkldnn._linear_pointwise(a, tile, None, "none", [], "")

    kernels: dict[str, Callable[[Tensor, Tensor], None]] = {"torch.mm": blas}
    if device == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        kernels["oneDNN"] = onednn
    return kernels


def product_seconds(m: int, k: int, n: int, device: str = "cpu", rounds: int = 5) -> dict[str, float]:
    """Return the seconds of an (m, k) x (k, n) float32 product by each kernel, and of the fastest: ``best_product``."""
    import torch

    a, b = torch.randn(m, k, device=device), torch.randn(n, k, device=device)
    kernels = product_kernels(m, n, device)
    seconds = medians(interleaved({name: partial(run, a, b) for name, run in kernels.items()}, rounds))
    return {**seconds, "best_product": min(seconds.values())}


def launch_microseconds(launches: int = 2000) -> float | None:
    """Return the time of one kernel launch on the CUDA device, in a queue that is never empty; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    value = torch.zeros(1, device="cuda")

    def launch() -> None:
        for _ in range(launches):
            value.add_(1)

    return medians(interleaved({"launch": launch}))["launch"] / launches * 1e6


# --- fresh processes ---------------------------------------------------------------------------------------------


def measured(step: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a step in a fresh process; return its seconds (imports included), its peak resident memory, its result.

    ``step`` must be importable, and what it returns small. Exits with a sentence where the process fails.
    """
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, step, arguments))
    process.start()
    send.close()
    try:
        report: dict[str, Any] = receive.recv()
    except EOFError:
        raise SystemExit(f"{step.__name__} failed.") from None
    process.join()
    return report


def _report(send: Any, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    result = step(*arguments)
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    send.send({"seconds": seconds, "peak_gib": peak, "result": result})


# --- options and records -----------------------------------------------------------------------------------------


def options(description: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser with the options that all programs have."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="measured rounds (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny shapes: tries the program, measures nothing")
    parser.add_argument("--out", type=Path, help="the JSON to write (default: results/NAME.json; none with --small)")
    return parser


def record(name: str, results: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Print the figures; write them with the machine, the versions and the command to ``results/NAME.json``.

    ``results`` has ``title`` and ``about`` (prose for the page), ``figures``, and whatever else is worth keeping.
    """
    from recvae.files import write_json

    print(f"\n{results['title']}\n")
    print(table(results["figures"]))
    where = arguments.out or (None if arguments.small else RESULTS / f"{name}.json")
    if where is not None:
        write_json(where, _rounded({**results, "command": _command(), "environment": machine()}))
        print(f"\nwritten: {where}")


def machine() -> dict[str, Any]:
    """Return :func:`recvae.report.environment` with threads, device and the versions of optional peers."""
    from recvae.report import environment

    about = environment()
    about["versions"] |= {name: version(name) for name in PEERS if name in sys.modules}
    torch = sys.modules.get("torch")
    if torch is not None:
        about["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        about["device"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu"
    return about


def table(figures: Sequence[Figure]) -> str:
    """Return figures as aligned text."""
    rows = [("", "ours", "compared with", "theirs", "ratio", "range"), *map(cells, figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(6)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    """Return a figure as the six cells of a table's row."""
    unit = figure["unit"]
    theirs = amount(figure["theirs"], unit) if "theirs" in figure else ""
    start = (figure["what"], amount(figure["ours"], unit), figure.get("peer", ""), theirs)
    if figure["kind"] == "alone":
        low, high = (amount(figure[side], unit) for side in ("low", "high"))
        return *start, "", "" if low == high else f"{low} - {high}"
    how = "times as fast" if figure["kind"] == "peer" else "times as long"
    return *start, f"{figure['ratio']:.3g} {how}", f"{figure['low']:.3g} - {figure['high']:.3g}"


def amount(value: float, unit: str) -> str:
    """Return a number with its unit, three digits; seconds in the unit that suits them."""
    if unit == "s" and value < 0.9995:
        value, unit = (value * 1e3, "ms") if value >= 0.9995e-3 else (value * 1e6, "µs")
    return (f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}").rstrip()


def _command() -> str:
    """Return the command that was run, without the place where the record goes."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not word.startswith("--out=") and not (word == "--out" and next(words, True))]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *kept])


def _rounded(value: Any) -> Any:
    """Six digits are more than any timing has."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
