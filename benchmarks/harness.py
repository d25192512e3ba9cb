"""The base of all programs: rounds taken in turn, figures, the machine's ceilings, fresh processes, records.

Nothing but the standard library is imported at the top, since the processes whose memory is measured import this too.
"""

import argparse
import gc
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recvae.experiments.jobs import Failure, Send, in_a_process, peak_memory_mb

if TYPE_CHECKING:
    from torch import Tensor

PEERS = ("irspack", "polars")  # optional packages that only a benchmark needs
RESULTS = Path(__file__).resolve().parent / "results"
DOCS = RESULTS.parent.parent / "docs"
DRIVER = Path("/proc/driver/nvidia/version")
USERS, ITEMS, CLICKS = 136_677, 20_108, 9_990_682  # ML-20M after the papers' filters

Contender = Callable[[], object]
Seconds = dict[str, list[float]]
Figure = dict[str, Any]


def interleaved(contenders: Mapping[str, Contender], rounds: int = 5, warmup: int = 1) -> Seconds:
    """Run every contender once a round, in turn, and return the wall seconds of each, one per round after warm-up."""
    seconds: Seconds = {name: [] for name in contenders}
    for number in range(-warmup, rounds):
        for name, run in contenders.items():
            elapsed = timed(run)
            if number >= 0:
                seconds[name].append(elapsed)
    return seconds


def timed(run: Contender) -> float:
    """Return the wall seconds of one call, with the GPU's queue empty before and after where one is in use."""
    torch = sys.modules.get("torch")
    wait = torch.cuda.synchronize if torch is not None and torch.cuda.is_initialized() else lambda: None
    gc.collect()  # now, and not while the clock runs
    wait()
    start = time.perf_counter()
    result = run()
    wait()
    elapsed = time.perf_counter() - start
    del result  # kept until the clock has stopped: giving memory back is not part of the work
    return elapsed


def sums(sides: Mapping[str, Sequence[tuple[Contender, float]]], rounds: int, warmup: int = 1) -> Seconds:
    """Run all kinds of work of all sides in turn; return the weighted sum of each side's seconds, one per round."""
    runs = {f"{side} {n}": run for side, kinds in sides.items() for n, (run, _) in enumerate(kinds)}
    seconds = interleaved(runs, rounds, warmup)
    return {
        side: [sum(weight * seconds[f"{side} {n}"][r] for n, (_, weight) in enumerate(kinds)) for r in range(rounds)]
        for side, kinds in sides.items()
    }


def several(step: Callable[[], object], steps: int) -> Contender:
    def run() -> None:
        for _ in range(steps):
            step()

    return run


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def against(what: str, seconds: Seconds, peer: str, *, floor: bool = False) -> Figure:
    """Return the figure that compares ours with a peer, or with a floor: work that nothing can do without.

    The ratio is the median of those round by round: the peer's time over ours (above 1: ours is faster), or ours over
    the floor's (1: at the limit). Rounds that only one of the two has are left out.
    """
    above, below = (seconds["ours"], seconds[peer]) if floor else (seconds[peer], seconds["ours"])
    ratios = [a / b for a, b in zip(above, below, strict=False)]
    return {
        "what": what, "ours": statistics.median(seconds["ours"]), "unit": "s", "kind": "floor" if floor else "peer",
        "peer": peer, "theirs": statistics.median(seconds[peer]),
        "ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios),
    }  # fmt: skip


def alone(what: str, values: Sequence[float], unit: str = "s") -> Figure:
    """Return a figure without a ratio."""
    middle = statistics.median(values)
    return {"what": what, "ours": middle, "unit": unit, "kind": "alone", "low": min(values), "high": max(values)}


def markdown(figures: Sequence[Figure]) -> list[str]:
    """Return figures as a table in Markdown, without the columns of comparisons where there are none."""
    rows = [("", "ours", "compared with", "theirs", "ratio", "range"), *map(cells, figures)]
    kept = [place for place in range(6) if place < 2 or any(row[place] for row in rows[1:])]
    rule = tuple("---" if place in (0, 2) else "---:" for place in range(6))
    return [f"| {' | '.join(row[place] for place in kept)} |" for row in (rows[0], rule, *rows[1:])]


def cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    """Return a figure as the six cells of a table's row; a floor also as the share of the limit."""
    unit = figure["unit"]
    theirs = amount(figure["theirs"], unit) if "theirs" in figure else ""
    start = (figure["what"], amount(figure["ours"], unit), figure.get("peer", ""), theirs)
    if figure["kind"] == "alone":
        low, high = (amount(figure[side], unit) for side in ("low", "high"))
        return *start, "", "" if low == high else f"{low} to {high}"
    limit = f" ({1 / figure['ratio']:.0%})" if figure["kind"] == "floor" else ""
    how = "times as fast" if figure["kind"] == "peer" else "times as long"
    return *start, f"{figure['ratio']:.3g} {how}{limit}", f"{figure['low']:.3g} to {figure['high']:.3g}"


def amount(value: float, unit: str) -> str:
    """Return a number with its unit, three digits; seconds in the unit that suits them."""
    if unit == "s" and value < 0.9995:
        value, unit = (value * 1e3, "ms") if value >= 0.9995e-3 else (value * 1e6, "µs")
    return (f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:.3g} {unit}").rstrip()


def copy_bandwidth() -> float:
    """Return GB/s, bytes read plus bytes written, of copying 256 MiB."""
    import torch

    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / medians(interleaved({"copy": lambda: target.copy_(source)}))["copy"] / 1e9


def product_kernels(m: int, n: int) -> "dict[str, Callable[[Tensor, Tensor], None]]":
    """Return the float32 products a @ b.T that torch has on a CPU, for a (up to m, k) and b (n, k), by name.

    Both write to memory that is there already; oneDNN makes its own, so it works in tiles, whose memory comes again.
    """
    import torch

    out = torch.empty(m, n)

    def blas(a: "Tensor", b: "Tensor") -> None:
        torch.mm(a, b.T, out=out[: len(a)])

    def onednn(a: "Tensor", b: "Tensor") -> None:
        for tile in torch.split(b, 512) if n > 4096 else (b,):
            torch.ops.mkldnn._linear_pointwise(a, tile, None, "none", [], "")

    kernels: dict[str, Callable[[Tensor, Tensor], None]] = {"torch.mm": blas}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        kernels["oneDNN"] = onednn
    return kernels


def product_seconds(m: int, k: int, n: int, rounds: int = 5) -> dict[str, float]:
    """Return the seconds of an (m, k) x (k, n) float32 product by each kernel, and of the fastest: ``best_product``."""
    import torch

    a, b = torch.randn(m, k), torch.randn(n, k)
    kernels = product_kernels(m, n)
    seconds = medians(interleaved({name: partial(run, a, b) for name, run in kernels.items()}, rounds))
    return {**seconds, "best_product": min(seconds.values())}


def measured(step: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Run an importable step in a fresh process; return its seconds (imports included), peak memory in GiB and result.

    Exits with a sentence where the process fails.
    """
    answer = in_a_process(_measure, {}, step, arguments)
    if isinstance(answer, Failure):
        raise SystemExit(f"{step.__name__} failed: {answer.sentence}\n{answer.traceback}".rstrip())
    return answer


def _measure(send: Send, step: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[float, float, Any]:
    start = time.perf_counter()
    result = step(*arguments)
    seconds = time.perf_counter() - start
    return seconds, (peak_memory_mb() or float("nan")) * 1e6 / 2**30, result


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that say where a record goes: nowhere, unless asked."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    where = made.add_mutually_exclusive_group()
    where.add_argument("--out", type=elsewhere, help="the JSON to write")
    where.add_argument("--record", action="store_true", help="replace the record in results/, and fill the pages")
    return made


def elsewhere(text: str) -> Path:
    """Return the path of an option --out; refuse one among the tracked records and pages, which --record replaces."""
    path = Path(text)
    if any(path.resolve().is_relative_to(folder) for folder in (RESULTS, DOCS)):
        raise argparse.ArgumentTypeError(f"{text} is among the tracked records and pages: use --record to replace one")
    return path


def write_record(name: str, results: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Write results with the command and the machine where the arguments say, and fill the pages from a record."""
    where = RESULTS / f"{name}.json" if arguments.record else arguments.out
    if where is None:
        print("\nnothing is written: --out FILE or --record would")
        return
    from recvae.files import write_json

    write_json(where, {**results, "command": command(), "environment": machine()})
    print(f"\nwritten: {where}")
    if arguments.record:
        from benchmarks.pages import fill_pages

        print(f"pages that changed: {', '.join(fill_pages()) or 'none'}")


def machine() -> dict[str, Any]:
    """Return :func:`recvae.reports.machine.environment` with the device and the versions of optional peers."""
    from recvae.reports.machine import environment

    about = environment()
    about["versions"] |= {name: version(name) for name in PEERS if name in sys.modules}
    torch = sys.modules.get("torch")
    if torch is not None:
        about["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
        about["device"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu"
        if torch.cuda.is_initialized():
            driver = DRIVER.read_text(encoding="utf-8").partition("\n")[0] if DRIVER.exists() else "unknown"
            about["versions"] |= {"CUDA": str(torch.version.cuda), "driver": driver}
    return about


def command() -> str:
    """Return the command that was run: paths by their last part, without the place where the record goes."""
    words = iter(sys.argv[1:])
    kept = [word for word in words if not word.startswith("--out=") and not (word == "--out" and next(words, True))]
    shown = (re.sub(r"(^|=).*/", r"\1", word) for word in kept if word != "--record")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", program, *shown])
