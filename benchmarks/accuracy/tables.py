"""The tables of accuracy in docs, as lines of Markdown, and the picture of the differences, from the records.

Each function takes a record and the words of the table's name; every sentence about figures is computed from them.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy.rows import BASE, METRICS
from recvae.files import whole_file

Record = Mapping[str, Any]
TITLES = {"ml-1m": "MovieLens-1M", "ml-100k": "MovieLens-100K"}


def study(told: Record, name: str, part: str) -> list[str]:
    """Return a part of the study of a dataset: run, test, splits, blend or budget."""
    rows, metric = told["rows"], told["metric"]
    return {"run": _run, "test": _test, "splits": _splits, "blend": _blend, "budget": _budget}[part](
        told, name, ranked(rows.values(), metric), metric, [other for other in METRICS if other != metric]
    )


def _run(told: Record, *_: Any) -> list[str]:
    """Return the paragraph about data, budget and machine."""
    counts, filters = told["dataset"]["counts"], told["dataset"].get("filters", {})
    users, machine = counts["users"], told["environment"]
    rating = "" if filters.get("min_rating") is None else f"Rating ≥ {filters['min_rating']:g}, "
    packages = ("torch", "numpy", "implicit", "irspack")
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in packages if name in machine["versions"])
    spent = sum(told["seconds"].values()) / 3600
    parts = ", ".join(f"{name} {seconds / 3600:.2f}" for name, seconds in told["seconds"].items())
    return wrapped(
        f"{rating}{users['validation']:,} + {users['test']:,} held-out users; the first split has {users['train']:,} "
        f"training users, {counts['items']:,} items and {counts['clicks']['train']:,} training clicks. Seeds "
        f"{', '.join(map(str, told['splits']))}. {told['budget']['trials']} trials a model. Run on "
        f"{machine['date'][:10]} on {machine['cpu']} with {machine['cores']} cores, Python {machine['python']}, "
        f"{versions}; {spent:.2f} hours of one thread in all ({parts})."
    )


def _test(told: Record, name: str, rows: list[Any], metric: str, others: list[str]) -> list[str]:
    """Return the table of test figures, the picture, and the rows that differ by more than chance."""
    title = told["rows"][told["reference"]]["title"] if told["reference"] else "none"
    lines = []
    for row in rows:
        versus = difference(row["versus"][metric]) if "versus" in row else ""
        seconds = sorted(row["train_seconds"])[len(row["train_seconds"]) // 2]
        figures = (value(row["metrics"][each]) for each in (metric, *others))
        lines.append([row["title"], *figures, versus, share(row["validation"]), f"{seconds:.3g}"])
    picture = f"![Paired difference of each model to {title}](results/study-{name}.png)"
    text = f"{title} is the variational model with the best validation score. {reading(rows, metric)}"
    heads = ["model", metric, *others, f"{metric} less {title}", "validation", "train s"]
    return [*table(heads, lines), "", picture, "", *wrapped(text)]


def _splits(told: Record, name: str, rows: list[Any], metric: str, others: list[str]) -> list[str]:
    """Return the means on each split, and the first one's with its standard error."""
    first, *rest = told["splits"]
    heads = ["model", *(f"{each}, seed {first}" for each in (metric, *others)), *(f"{metric}, seed {s}" for s in rest)]
    lines = []
    for row in rows:
        figures = (value(row["first"][each]) for each in (metric, *others))
        lines.append([row["title"], *figures, *map(share, row["by_split"][metric][1:])])
    return table(heads, lines)


def _blend(told: Record, name: str, rows: list[Any], *_: Any) -> list[str]:
    titles = {name: row["title"] for name, row in told["rows"].items()}
    weights = [zip(row["rows"], row["weights"], strict=True) for row in rows if "weights" in row]
    shown = [", ".join(f"{titles.get(part, part)} {weight:.2f}" for part, weight in pairs) for pairs in weights]
    return wrapped(f"Weights of the blend, chosen on the first split's validation users: {'; '.join(shown)}.")


def _budget(told: Record, name: str, rows: list[Any], metric: str, others: list[str]) -> list[str]:
    """Return the paragraph about twice the budget."""
    if "order" not in told:
        return ["Twice the budget was not spent yet."]
    titles, order = {name: row["title"] for name, row in told["rows"].items()}, told["order"]
    at, twice = told["budget"]["trials"], told["budget"]["double"]
    changed = "; ".join(
        f"{row['title']} (validation {share(row['validation'])} to {share(row['double']['validation'])}, "
        f"test {metric} {difference(row['double']['gain'], sign=True)})"
        for row in told["rows"].values()
        if "double" in row and not row["double"]["same"]
    )
    winners = f"another winner for {changed}" if changed else "the same winners"
    swaps = "; ".join(f"{titles[a]} and {titles[b]}" for a, b in order["swaps"])
    left = [row["title"] for name, row in told["rows"].items() if "model" in row and name not in order["at"]]
    return wrapped(
        f"Twice the budget, {twice} trials in place of {at}, on the first split: {winners}. The order by test {metric} "
        f"on that split is the same{f' but for {swaps}' if swaps else ''}."
        + (f" Not searched that long: {_listed(left)}." if left else "")
    )


def family(told: Record, name: str, group: str) -> list[str]:
    """Return the table of one group of the family and how its rows differ; "run" is the paragraph about the run."""
    if group == "run":
        machine, counts = told["environment"], told["dataset"]["counts"]
        return wrapped(
            f"{counts['users']['train']:,} training users, {counts['users']['test']:,} test users, {counts['items']:,} "
            f"items, seed {told['dataset']['protocol']['seed']}. Run on {machine['date'][:10]} on {machine['cpu']} "
            f"with {machine['cores']} cores, torch {machine['versions']['torch']}."
        )
    metric = told["metric"]
    others = [other for other in METRICS if other != metric]
    rows = [row for row in told["rows"].values() if row["group"] == group]
    heads = ["", metric, *others, f"{metric} less {BASE}", "validation", "KL", "epoch", "chosen"]
    lines = []
    for row in rows:
        versus = difference(row["versus"][metric], sign=True) if "versus" in row else ""
        kl = "" if row["kl"] is None else f"{row['kl']:.1f}"
        chosen = ", ".join(setting.removeprefix("model.") for setting in row["chosen"])
        cells = [row["title"], *(value(row["metrics"][each]) for each in (metric, *others)), versus]
        lines.append([*cells, share(row["validation"]), kl, str(row["epoch"]), chosen])
    text = reading(rows, metric, f"the {BASE} row")
    if group == "chance":
        means = [row["metrics"][metric]["mean"] for row in (*rows, told["rows"][BASE])]
        text = f"From the lowest to the highest {metric} of these and the {BASE} row: {share(max(means) - min(means))}."
    return [*table(heads, lines), "", *wrapped(text)]


def conditional(told: Record) -> list[str]:
    """Return the figures of a conditional VAE asked for a genre beside the unconditional model's."""
    mean, ratio = told["mean"], told["figures"][-1]
    asked, plain = (told["not_asked"][name] for name in ("conditional, not asked", "unconditional"))
    shares = {name: row["ratio"] for name, row in told["genres"].items()}
    least, most = min(shares, key=lambda name: shares[name]), max(shares, key=lambda name: shares[name])
    lines = [
        ["share of the genre in the top 10 of all users, asked for it, no filter; mean over genres",
         f"{100 * mean['share']:.0f} %", f"{100 * mean['unasked_share']:.0f} % (cannot be asked)"],
        ["recall@20 of held-out items of the genre: asked for it; Mult-VAE allowed its items only",
         share(mean["asked"], 3), share(mean["filtered"], 3)],
        ["ratio of the two, with its 95 % interval over users",
         f"{share(ratio['ours'], 3)} [{share(ratio['low'], 3)}, {share(ratio['high'], 3)}]", ""],
        *([f"{metric}, asked for nothing", value(asked[metric]), value(plain[metric])]
          for metric in ("ndcg@100", "recall@20")),
    ]  # fmt: skip
    text = (
        f"{len(shares)} genres, {asked['ndcg@100']['users']} users{day(told)}. The "
        f"genres' ratios go from {share(shares[least], 3)} ({least}) to {share(shares[most], 3)} ({most}); allowing it "
        f"the genre's items only gives a recall of {share(mean['asked and filtered'], 3)}."
    )
    return [*table(["", "conditional VAE", "Mult-VAE"], lines), "", *wrapped(text)]


def defaults(told: Record) -> list[str]:
    """Return the mean over the splits, on validation and on test users, of each model on each data set."""
    splits: dict[tuple[str, str], list[Record]] = {}
    for key, row in told["rows"].items():
        name, _, model = key.split(" ")
        splits.setdefault((name, model), []).append(row)
    lines = []
    for (name, model), found in splits.items():
        means = (share(sum(row[part] for row in found) / len(found)) for part in ("validation", "test"))
        lines.append([name, str(len(found)), f"`{model}`", *means])
    return table(["data", "splits", "model", "validation", "test"], lines)


def imputation(told: Record, part: str) -> list[str]:
    """Return the errors of predicted ratings, or the rankings of the same users' held-out clicks."""
    if part == "ranking":
        metrics = list(next(iter(told["ranking"].values())))
        lines = [[name, *(value(found[metric]) for metric in metrics)] for name, found in told["ranking"].items()]
        return table(["ranking of the same users' held-out clicks", *metrics], lines)
    errors = told["errors"]
    lines = []
    for name in ("rmse", "mae"):
        of_model, bias = (value(errors[name][model]) for model in ("vaeac", "bias"))
        lines.append([name.upper(), of_model, bias, difference(errors[name]["vaeac_less_bias"])])
    splits = ", ".join(difference(split["rmse"]["vaeac_less_bias"]) for split in told["splits"])
    text = (
        f"{errors['ratings']:,} held-out ratings of {errors['people']:,} people{day(told)}. By split, RMSE of VAEAC "
        f"less the bias model's: {splits}."
    )
    return [*table(["held-out ratings", "VAEAC", "damped bias", "difference"], lines), "", *wrapped(text)]


def rules(told: Record) -> list[str]:
    """Return accuracy and variety of lists by rule, and their times over those of plain lists."""
    metrics = list(next(iter(told["table"].values())))
    lines = [[name, *(share(found[metric]) for metric in metrics)] for name, found in told["table"].items()]
    times = ", ".join(
        f"{figure['what'].removesuffix(', over plain')} {figure['ours']:.2f}" for figure in told["figures"]
    )
    text = f"Time over that of plain lists, one thread: {times}. [Record](../benchmarks/results/rules.json){day(told)}."
    return [*table(["rule", *metrics], lines), "", *wrapped(text)]


def warm_start(told: Record) -> list[str]:
    """Return epochs and seconds to a cold run's best score, cold and from the weights of the night before."""
    heads = [
        "settings, split",
        "cold: best",
        "99 %",
        "100 %",
        "warm: 99 %",
        "100 %",
        "best",
        "epochs to 99 %, warm to cold",
    ]
    lines, shares = [], []
    for key, row in told["rows"].items():
        cold, warm = (row[run]["reached"] for run in ("cold", "warm"))
        shares.append(warm["99%"][0] / cold["99%"][0] if warm["99%"][0] else None)
        times = [_reached(each[target]) for each in (cold, warm) for target in ("99%", "100%")]
        part = "" if shares[-1] is None else f"{100 * shares[-1]:.0f} %"
        lines.append([key, share(row["best"]), *times, share(row["warm"]["best"]), part])
    first = next(iter(told["rows"].values()))["counts"]
    sizes = " and ".join(
        f"{counts['clicks']['train']:,} clicks of {counts['users']['train']:,} users on {counts['items']:,} items"
        for counts in first.values()
    )
    quick = sum(part is not None and part <= 0.25 for part in shares)
    text = (
        f"{told['metric']} of {first['second night']['users']['validation']} validation users; on the first split the "
        f"nights have {sizes}. {quick} of {len(lines)} warm runs reach 99 % within a quarter of the cold run's epochs. "
        f"[Record](../benchmarks/results/warm-start.json){day(told)}."
    )
    return [*table(heads, lines), "", *wrapped(text)]


def _reached(found: Sequence[float | None]) -> str:
    epoch, seconds = found
    return "not reached" if epoch is None or seconds is None else f"{epoch} ({seconds:.1f} s)"


def exports(told: Record) -> list[str]:
    """Return how far exports are from their models, and what smaller weights cost, in bytes and accuracy."""
    metric, lines = told["metric"], []
    for name, row in told["table"].items():
        plain = row["float32"]
        cells = ["a blend of two" if name == "blend" else row["title"]]
        cells += [f"{plain[key]:.1e}" for key in ("difference", "relative")]
        cells += [f"{plain['swapped']:,}", f"{plain['bytes'] / 1e6:.3g}", share(plain[metric])]
        for smaller in (row["bf16"], row["int8"]):
            size = "" if "refused" in smaller else f"{smaller['bytes'] / plain['bytes']:.1%}"
            cells += [size, share(smaller[metric] - plain[metric]) if size else ""]
        lines.append(cells)
    users = next(iter(told["table"].values()))["float32"]["users"]
    wrong = sum(row["float32"]["beyond_ties"] for row in told["table"].values())
    text = (
        f"{users} test users, {told['epochs']} epochs, lists of {told['k']}. Scores: the largest difference from "
        "torch's, as it is, and divided by the score where that is above 1. Swapped: places of all lists with another "
        f"item than torch's, {wrong or 'none'} of them beyond a tie within 1e-5. Size: graph and weights, in MB, and "
        f"the share of it that smaller weights take; beside it the change of {metric}. "
        f"[Record](../benchmarks/results/exports.json){day(told)}."
    )
    heads = ["model", "scores", "relative", "swapped", "MB", metric, "bf16", "change", "int8", "change"]
    return [*table(heads, lines), "", *wrapped(text)]


def forest(told: Record, path: Path) -> None:
    """Draw the paired difference of each row to the reference with its interval, the best row on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric, rows, name = told["metric"], told["rows"], told["dataset"]["name"]
    shown = [row for row in reversed(ranked(rows.values(), metric)) if "versus" in row]
    near = [row for row in shown if abs(row["versus"][metric]["difference"]) < 0.1]  # popularity would hide the rest
    blue, figure = "#33618f", Figure(figsize=(7, 0.8 + 0.36 * max(len(near), 1)), layout="constrained")
    axes = figure.add_subplot()
    for place, versus in enumerate(row["versus"][metric] for row in near):
        low, mean, high = (_number(versus[key]) for key in ("low", "difference", "high"))
        axes.plot([low, high], [place, place], color=blue, linewidth=2)
        axes.plot([mean], [place], "o", color=blue, markerfacecolor="white" if low <= 0 <= high else blue)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(near)), [row["title"] for row in near])
    axes.set_ylim(-0.6, max(len(near), 1) - 0.4)
    left_out = [row["title"] for row in shown if row not in near]
    note = textwrap.fill(f"off the scale: {', '.join(left_out)}", 90) if left_out else ""
    axes.set_xlabel(f"{metric} less {rows[told['reference']]['title']}, 95 % interval\n{note}".strip(), fontsize=9)
    axes.set_title(f"{TITLES.get(name, name)}, {len(told['splits'])} splits", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    FigureCanvasAgg(figure)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def reading(rows: Iterable[Record], metric: str, base: str = "it") -> str:
    """Say which rows differ from the one they are compared with by more than chance."""
    against = {row["title"]: row["versus"][metric] for row in ranked(rows, metric) if "versus" in row}
    above = [title for title, versus in against.items() if _number(versus["low"]) > 0]
    below = [title for title, versus in against.items() if _number(versus["high"]) < 0]
    same = [title for title in against if title not in above and title not in below]
    said = (("Above", above), ("Not told from", same), ("Below", below))
    return f"By the intervals in {metric}, which are not corrected for their number: " + " ".join(
        f"{where} {base}: {_listed(titles)}." for where, titles in said if titles
    )


def ranked(rows: Iterable[Any], metric: str) -> list[Any]:
    """Return the rows, the best test mean first."""
    return sorted(rows, key=lambda row: -row["metrics"][metric]["mean"])


def share(value: float | None, digits: int = 4) -> str:
    """Return a metric as the papers print it: no zero before the point."""
    if value is None:
        return ""
    text = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 turns -0.0 into 0.0
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def value(metric: Record) -> str:
    return share(metric["mean"]) + (f" ±{share(metric['se'])}" if metric["se"] is not None else "")


def difference(versus: Record, *, sign: bool = False) -> str:
    plus = "+" if sign and versus["difference"] > 0 else ""
    return f"{plus}{share(versus['difference'])} [{share(versus['low'])}, {share(versus['high'])}]"


def day(told: Record) -> str:
    return f", run on {told['environment']['date'][:10]}" if "environment" in told else ""


def _number(value: float | None) -> float:
    """Return an interval's end, not a number where it is not defined."""
    return float("nan") if value is None else value


def _listed(names: Sequence[str]) -> str:
    if any("," in name for name in names):
        return "; ".join(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 120, break_long_words=False, break_on_hyphens=False)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]
