"""docs/results.md and its pictures from the records of the accuracy study: every measured figure comes from their JSON.

The sections that are not the study's (published figures, memory) stand below as they are.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import RESULTS

from recvae.files import read_json, whole_file, write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results.md"
DATASETS = {"ml-1m": "MovieLens-1M", "ml-100k": "MovieLens-100K"}
VAE_NOTE = "the variational model with the best validation score"

HEAD = """\
# Results

Every figure in the study's tables comes from recorded runs whose summary is a JSON in this repository. On each
MovieLens dataset every model was tuned alike: the same number of trials of `recvae tune` on the validation users of
one split (one trial for a model without options), starting from the configuration that was shipped, or from the
defaults. Each winner was then trained on five splits, the validation users choosing nothing but the epoch, and
measured once on each split's test users. A mean is over the test users of all splits, but for those who chose the
settings as the first split's validation users; ± is its standard error and brackets are 95 % bootstrap intervals of
the paired difference, both by resampling people, since one may be a test user of several splits. The starting points
come from earlier searches on the first split's validation users, and the recipe of RecVAE + EDLAE from experiments on
the splits of seeds 98765 and 1 in which test figures were seen: [log.md](log.md) has them, and what else was tried.
"""

CHECKS = """\
Two checks against an independent program on the split of seed 98765. Popularity (.1759 / .2372 / .2235 for recall@20 /
recall@50 / ndcg@100) and EASE with lambda 800 (.3557 / .4777 / .4252) agree with it to the fourth decimal, and are
tests. RecVAE with the settings that the paper has for ML-20M, in 100 epochs, reaches .3572 / .4871 / .4237 here
(validation .4238, epoch 46), and .3533 / .4823 / .4209 with the authors' program:

```sh
recvae prepare ml-1m --out ml-1m
recvae train ml-1m --config ml-20m-recvae --set train.epochs=100 --out runs/ml20m-settings
recvae evaluate runs/ml20m-settings ml-1m
```
"""

PUBLISHED = """\
## ML-20M, Netflix, MSD

Not run here: the data are not at hand. The papers' test figures (recall@20 / recall@50 / ndcg@100), the configurations
that carry their settings, and the commands that fill the empty column where the data are:

| data | model | published | here | configuration |
|---|---|---|---|---|
| ML-20M | Mult-DAE | .387 / .524 / .419 | | `ml-20m-mult-dae` |
| | Mult-VAE | .395 / .537 / .426 | | `ml-20m-mult-vae` |
| | Mult-VAE, batch 24,576 | ndcg@100 .430 on validation | | `ml-20m-mult-vae-large-batch` |
| | EASE | .391 / .521 / .420 | | defaults |
| | RecVAE | .414 / .553 / .442 | | `ml-20m-recvae` |
| Netflix | Mult-DAE | .344 / .438 / .380 | | `netflix-mult-dae` |
| | Mult-VAE | .351 / .444 / .386 | | `netflix-mult-vae` |
| | RecVAE | .361 / .452 / .394 | | `netflix-recvae` |
| MSD | Mult-DAE | .266 / .363 / .313 | | `msd-mult-dae` |
| | Mult-VAE | .266 / .364 / .316 | | `msd-mult-vae` |
| | RecVAE | .276 / .374 / .326 | | `msd-recvae` |

```sh
recvae prepare ml-20m --out ml-20m
recvae benchmark ml-20m --models recvae,mult-vae,mult-dae,ease,popularity --out comparison/ml-20m
```
"""

MEMORY = """\
## Memory at ML-20M's shape

136,677 users, 20,108 items, 20 million synthetic ratings of which 10 million are clicks; batch 500, the papers' widths;
each step in a process of its own; float32 on the CPU. Run on {date} on {cpu} with {cores} cores:
`{command}`, recorded in [benchmarks/results/memory.json](../benchmarks/results/memory.json).

| step | peak resident memory |
|---|---|
"""


def write_page(results: Path = RESULTS, page: Path = PAGE) -> list[str]:
    """Write page and pictures from the records there are; return the datasets they are of."""
    parts, found = [HEAD], []
    for name, title in DATASETS.items():
        file = results / f"study-{name}.json"
        if file.is_file():
            told = read_json(file)
            if len(told["rows"]) > 1 and told["reference"] is not None:
                forest(told, page.parent / "results" / f"study-{name}.png", title)
            parts.append(section(told, name, title))
            found.append(name)
        if name == "ml-1m":
            parts.append(CHECKS)
    if not found:
        return []
    parts.append(PUBLISHED)
    memory = results / "memory.json"
    if memory.is_file():
        parts.append(_memory(read_json(memory)))
    write_text(page, "\n".join(parts))
    return found


def section(told: Mapping[str, Any], name: str, title: str) -> str:
    """Return one dataset's part of the page."""
    rows, metric, reference = told["rows"], told["metric"], told["reference"]
    others = [other for other in next(iter(rows.values()))["metrics"] if other != metric]
    lines = [f"## {title}", "", wrapped(_about(told)), "", "```sh", told["command"], "```", ""]
    compared = f"{metric} less {rows[reference]['title']}" if reference else ""
    heads = ["model", metric, *others, *([compared] if compared else []), "validation", "train s"]
    lines += [line(heads), line(["---"] * len(heads))]
    for row in ranked(rows, metric):
        cells = [row["title"], *(value(row["metrics"][each]) for each in (metric, *others))]
        cells += [difference(row["versus"][metric]) if "versus" in row else ""] if compared else []
        seconds = sorted(row["train_seconds"])[len(row["train_seconds"]) // 2]
        lines.append(line([*cells, share(row["validation"]), f"{seconds:.3g}"]))
    lines.append("")
    if compared:
        lines += [f"![Paired difference of each model to {rows[reference]['title']}](results/study-{name}.png)", ""]
        lines += [wrapped(_reading(told)), ""]
    lines += ["Means on each split, and the first one's, on which the models were tuned, with its standard error:", ""]
    seeds = told["splits"]
    heads = ["model", f"{metric}, seed {seeds[0]}", *(f"{other}, seed {seeds[0]}" for other in others)]
    heads += [f"{metric}, seed {seed}" for seed in seeds[1:]]
    lines += [line(heads), line(["---"] * len(heads))]
    for row in ranked(rows, metric):
        cells = [row["title"], *(value(row["first"][each]) for each in (metric, *others))]
        lines.append(line([*cells, *map(share, row["by_split"][metric][1:])]))
    lines.append("")
    for row in rows.values():
        if "weights" in row:
            shown = ", ".join(
                f"{rows[part]['title'] if part in rows else part} {weight:.2f}"
                for part, weight in zip(row["rows"], row["weights"], strict=True)
            )
            lines += [wrapped(f"Weights of the blend, chosen on the first split's validation users: {shown}."), ""]
    if "order" in told:
        lines += [wrapped(_twice(told)), ""]
    lines += [
        f"Settings, sources and all figures: [study-{name}.json](../benchmarks/results/study-{name}.json).",
        "",
    ]
    return "\n".join(lines)


def ranked(rows: Mapping[str, Any], metric: str) -> list[Any]:
    """Return the rows, the best test mean first."""
    return sorted(rows.values(), key=lambda row: -row["metrics"][metric]["mean"])


def _about(told: Mapping[str, Any]) -> str:
    counts, filters = told["dataset"]["counts"], told["dataset"].get("filters", {})
    users, machine, seeds = counts["users"], told["environment"], told["splits"]
    rating = "" if filters.get("min_rating") is None else f"Rating ≥ {filters['min_rating']:g}, "
    packages = ("torch", "numpy", "implicit", "irspack")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in packages if name in machine["versions"])
    spent = sum(told["seconds"].values()) / 3600
    parts = ", ".join(f"{name} {seconds / 3600:.2f}" for name, seconds in told["seconds"].items())
    return (
        f"{rating}{users['validation']:,} + {users['test']:,} held-out users; the first split has {users['train']:,} "
        f"training users, {counts['items']:,} items and {counts['clicks']['train']:,} training clicks. Seeds "
        f"{', '.join(map(str, seeds))}. {told['budget']['trials']} trials a model. Run on {machine['date'][:10]} on "
        f"{machine['cpu']} with {machine['cores']} cores, Python {machine['python']}, {versions}; {spent:.2f} hours of "
        f"one thread in all ({parts})."
    )


def _reading(told: Mapping[str, Any]) -> str:
    """Say which rows differ from the reference by more than chance."""
    rows, metric = told["rows"], told["metric"]
    against = {row["title"]: row["versus"][metric] for row in ranked(rows, metric) if "versus" in row}
    above = [title for title, versus in against.items() if _number(versus["low"]) > 0]
    below = [title for title, versus in against.items() if _number(versus["high"]) < 0]
    same = [title for title in against if title not in above and title not in below]
    said = [
        f"{what}: {_listed(titles)}."
        for what, titles in (("Above it", above), ("Not told from it", same), ("Below it", below))
        if titles
    ]
    title = rows[told["reference"]]["title"]
    return (
        f"{title} is {VAE_NOTE}. By the intervals in {metric}, which are not corrected for their number: "
        + " ".join(said)
    )


def _twice(told: Mapping[str, Any]) -> str:
    """Return the paragraph about twice the budget."""
    rows, order, metric = told["rows"], told["order"], told["metric"]
    at, twice = told["budget"]["trials"], told["budget"]["double"]
    changed = [row for row in rows.values() if "double" in row and not row["double"]["same"]]
    text = f"Twice the budget, {twice} trials in place of {at}, on the first split: "
    if changed:
        text += "another winner for " + "; ".join(
            f"{row['title']} (validation {share(row['validation'])} to {share(row['double']['validation'])}, "
            f"test {metric} {difference(row['double']['gain'], sign=True)})"
            for row in changed
        )
    else:
        text += "the same winners"
    pairs = "; ".join(f"{rows[a]['title']} and {rows[b]['title']}" for a, b in order["swaps"])
    text += f". The order by test {metric} on that split is " + (f"the same but for {pairs}." if pairs else "the same.")
    left = [row["title"] for name, row in rows.items() if "model" in row and name not in order["at"]]
    return text + (f" Not searched that long: {_listed(left)}." if left else "")


def forest(told: Mapping[str, Any], path: Path, title: str) -> None:
    """Draw the paired difference of each row to the reference with its interval, the best row on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric, rows = told["metric"], told["rows"]
    shown = [row for row in reversed(ranked(rows, metric)) if "versus" in row]
    near = [row for row in shown if abs(row["versus"][metric]["difference"]) < 0.1]  # popularity would hide the rest
    figure = Figure(figsize=(7, 0.8 + 0.36 * max(len(near), 1)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(near):
        versus = row["versus"][metric]
        low, mean, high = (_number(versus[key]) for key in ("low", "difference", "high"))
        told_apart = low > 0 or high < 0
        axes.plot([low, high], [place, place], color="#33618f", linewidth=2)
        axes.plot([mean], [place], "o", color="#33618f", markerfacecolor="#33618f" if told_apart else "white")
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(near)), [row["title"] for row in near])
    axes.set_ylim(-0.6, max(len(near), 1) - 0.4)
    left_out = [row["title"] for row in shown if row not in near]
    note = textwrap.fill(f"off the scale: {', '.join(left_out)}", 90) if left_out else ""
    axes.set_xlabel(f"{metric} less {rows[told['reference']]['title']}, 95 % interval\n{note}".strip(), fontsize=9)
    axes.set_title(f"{title}, {len(told['splits'])} splits", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    FigureCanvasAgg(figure)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _memory(told: Mapping[str, Any]) -> str:
    machine = told["environment"]
    head = MEMORY.format(date=machine["date"][:10], cpu=machine["cpu"], cores=machine["cores"], command=told["command"])
    return head + "".join(
        f"| {figure['what']} | {figure['ours']:.3g} {figure['unit']} |\n" for figure in told["figures"]
    )


def share(value: float | None) -> str:
    """Return a metric as the papers print it: four decimals, no zero before the point."""
    if value is None:
        return ""
    text = f"{round(value, 4) + 0.0:.4f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def value(metric: Mapping[str, Any]) -> str:
    return share(metric["mean"]) + (f" ±{share(metric['se'])}" if metric["se"] is not None else "")


def difference(versus: Mapping[str, Any], *, sign: bool = False) -> str:
    plus = "+" if sign and versus["difference"] > 0 else ""
    return f"{plus}{share(versus['difference'])} [{share(versus['low'])}, {share(versus['high'])}]"


def _number(value: float | None) -> float:
    """Return an interval's end, not a number where it is not defined."""
    return float("nan") if value is None else value


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
