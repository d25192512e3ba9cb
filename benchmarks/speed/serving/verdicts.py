"""What the figures of the service must be, and their table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import amount

RECVAE, SINGLY, STACK, ALS = "recvae", "recvae, one request a batch", "the web stack alone", "implicit ALS"
CONNECTIONS = 1, 8, 64
AGREE = 1.15  # the greatest ratio of wrk's rate and ours
Row = dict[str, Any]
Verdict = dict[str, Any]


def judge(rows: Sequence[Row], in_process: float, wrk: Mapping[str, Sequence[float]]) -> list[Verdict]:
    """Return what must hold of the rows, each with its figure, its bound and whether it holds.

    ``wrk``: the rates that wrk found for some contenders, a rate after each of our rates with the most connections.
    """
    of = {(row["contender"], row["load"]): row for row in rows}
    one, most = "1 connection", f"{CONNECTIONS[-1]} connections"
    rate = {contender: of[contender, most]["rate"] for contender in (RECVAE, SINGLY, STACK, ALS)}
    half = of[RECVAE, "50% of the greatest rate"]
    closed_failures = sum(row["failed"] for row in rows if "asked" not in row)
    verdicts = [
        verdict(f"{one}: p50 in ms above the p50 in process", 1e3 * (of[RECVAE, one]["p50"] - in_process), at_most=2),
        verdict(f"{most}: times the rate of one request a batch", rate[RECVAE] / rate[SINGLY], at_least=4),
        verdict(f"{most}: share of the rate of the web stack alone", rate[RECVAE] / rate[STACK], at_least=0.4),
        verdict(f"{most}: times the rate of implicit ALS", rate[RECVAE] / rate[ALS], at_least=1),
        verdict("50% of the greatest rate: p99 in ms", 1e3 * half["p99"], at_most=25),
        verdict("requests of closed loops that failed", closed_failures, at_most=0),
    ]
    for contender, theirs in wrk.items():
        ours = of[contender, most]["rates"]
        ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
        ratio = max(ratio, 1 / ratio)
        verdicts.append(verdict(f"{contender}: ratio of wrk's rate and ours", ratio, at_most=AGREE))
    return verdicts


def verdict(what: str, figure: float, at_most: float = math.inf, at_least: float = -math.inf) -> Verdict:
    """Return a figure, its bounds and whether it is within them."""
    bounds = {"at_most": at_most, "at_least": at_least}
    given = {side: bound for side, bound in bounds.items() if math.isfinite(bound)}
    return {"what": what, "figure": figure, **given, "holds": bool(at_least <= figure <= at_most)}


def sentence(found: Verdict) -> str:
    """Return a verdict as a line."""
    bounds = (f"{side.replace('_', ' ')} {found[side]:g}" for side in ("at_least", "at_most") if side in found)
    holds = "holds" if found["holds"] else "DOES NOT HOLD"
    return f"{holds}: {found['what']}: {found['figure']:.3g} ({', '.join(bounds)})"


def table(rows: Sequence[Row]) -> list[str]:
    """Return rows of Markdown: a line for each load, and for each contender its rate, p50 and p99."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    lines = [f"| load | {' | '.join(contenders)} |", "| --- |" + " ---: |" * len(contenders)]
    for load in dict.fromkeys(row["load"] for row in rows):
        cells = [_cell(row) for c in contenders for row in rows if (row["contender"], row["load"]) == (c, load)]
        lines.append(f"| {load} | {' | '.join(cells)} |")
    return lines


def _cell(row: Row) -> str:
    failed = f", {row['failed']:,} refused" if row["failed"] else ""
    return f"{row['rate']:,.0f}/s, {amount(row['p50'], 's')}, {amount(row['p99'], 's')}{failed}"
