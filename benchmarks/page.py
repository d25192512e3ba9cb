"""docs/performance.md from the records of the benchmarks: every figure on it comes from their JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import PEERS, RESULTS, Figure, amount, cells

from recvae.files import read_json, write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

HEAD = """\
# Performance

Each table is one run of a program in [benchmarks](../benchmarks) that takes turns between ours and a named peer, after
a warm-up, and checks that both give the same result before it times anything. "Ours" and "theirs" are medians over the
rounds; a ratio is the median of the ratios round by round, followed by their range. Against a peer it says how many
times as fast ours is. Against a floor, work that nothing can do without, it says how many times as long ours takes, and
in brackets which share of the machine's limit that is. A line without a ratio is a measurement, with its own range.

The programs need the development install of the [README](../README.md), and `pip install irspack` for one of the
peers. This page is written from their records by

```sh
python benchmarks/run.py --ml-1m ml-1m.zip
```
"""


def write_page(programs: Sequence[str], results: Path = RESULTS, page: Path = PAGE) -> list[str]:
    """Write the page from the records there are, in the order of ``programs``; return the names of those."""
    records = {name: read_json(results / f"{name}.json") for name in programs if (results / f"{name}.json").exists()}
    records = {name: found for name, found in records.items() if "figures" in found}
    machines = [machine(found["environment"]) for found in records.values()]
    usual = max(machines, key=machines.count, default="")
    parts = [HEAD]
    if usual:
        parts.append(f"Unless a section says otherwise, it was run on {usual}.\n")
    parts += [section(name, found, usual) for name, found in records.items()]
    write_text(page, "\n".join(parts))
    return list(records)


def section(name: str, found: dict[str, Any], usual: str) -> str:
    """Return one program's heading, prose, table, and how to do it again."""
    lines = [f"## {found['title']}", "", found["about"], "", *markdown(found["figures"]), ""]
    if found.get("ceilings"):
        lines += [f"In the same run: {'; '.join(map(ceiling, *zip(*found['ceilings'].items(), strict=True)))}.", ""]
    environment = found["environment"]
    how = [] if machine(environment) == usual else [machine(environment)]
    if (threads := environment.get("threads")) is not None:
        how.append("one thread" if threads == 1 else f"{threads} threads")
    how += [f"{name} {number}" for name, number in environment["versions"].items() if name in PEERS]
    how.append(environment["date"][:10])
    lines += [f"`{found['command']}`: {', '.join(how)}; [record](../benchmarks/results/{name}.json).", ""]
    return "\n".join(lines)


def machine(environment: dict[str, Any]) -> str:
    """Return device and versions in a line."""
    device = environment.get("device", "cpu")
    cpu = f"{environment['cpu']} ({environment['cores']} cores, {environment['memory_gb']} GB)"
    versions = {"Python": environment["python"], **environment["versions"]}
    named = [f"{name} {number}" for name, number in versions.items() if name not in ("recvae", *PEERS)]
    return f"{cpu if device == 'cpu' else f'{device}, {cpu}'} with {', '.join(named)}"


def markdown(figures: Sequence[Figure]) -> list[str]:
    """Return figures as a table, without the columns of comparisons where there are none."""
    rows = [("", "ours", "compared with", "theirs", "ratio", "range"), *map(full_cells, figures)]
    kept = [place for place in range(6) if place < 2 or any(row[place] for row in rows[1:])]
    rows.insert(1, tuple("---" if place in (0, 2) else "---:" for place in range(6)))
    return [f"| {' | '.join(row[place] for place in kept)} |" for row in rows]


def full_cells(figure: Figure) -> tuple[str, str, str, str, str, str]:
    """Return a figure's cells for the page: a floor also as the share of the limit."""
    what, ours, peer, theirs, ratio, spread = cells(figure)
    if figure["kind"] == "floor":
        ratio += f" ({1 / figure['ratio']:.0%})"
    return what, ours, peer, theirs, ratio, spread.replace(" - ", " to ")


def ceiling(name: str, value: float) -> str:
    """Return a ceiling as words: its key ends in its unit."""
    names = {
        "copy_gb_per_s": ("copying", "GB/s read and written"),
        "product_gflops": ("the fastest matrix product", "GFLOP/s"),
        "reading_gb_per_s": ("reading", "GB/s"),
        "launch_us": ("a kernel launch", "µs"),
        "fill_gb_per_s": ("filling", "GB/s written"),
        "float32_product_tflops": ("a float32 product", "TFLOP/s"),
        "tf32_product_tflops": ("a TF32 product", "TFLOP/s"),
        "bf16_product_tflops": ("a bfloat16 product", "TFLOP/s"),
    }
    what, unit = names.get(name, (name.replace("_", " "), ""))
    return f"{what} {amount(value, unit)}"
