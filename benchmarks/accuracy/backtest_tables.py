"""The tables of what time changes, as lines of Markdown, from the record of :mod:`benchmarks.accuracy.backtest`."""

from collections.abc import Mapping, Sequence

from benchmarks.accuracy.tables import Record, day, share, table, value, wrapped


def backtest(told: Record) -> list[str]:
    """Return each model's metric and place on a random split, on a time split and in a backtest, and by clicks seen."""
    metric = told["metric"]
    protocols = ("random", "time", "backtest")
    means = {
        p: {name: model["metrics"][metric]["mean"] for name, model in told[p]["models"].items()} for p in protocols
    }
    order = {protocol: sorted(of, key=lambda name: -of[name]) for protocol, of in means.items()}
    lines = []
    for name in order["random"]:
        cells = [f"{value(told[p]['models'][name]['metrics'][metric])} ({order[p].index(name) + 1})" for p in protocols]
        groups = told["time"]["models"][name]["groups"]
        cells[2:2] = [value(groups[group][metric]) for group in ("known_users", "new_users")]
        lines.append([name, *cells])
    heads = ["model", "random split", "time split", "known users", "new users", "backtest"]
    seen = [place for place, group in enumerate(told["backtest"]["clicks_seen"]) if group["questions"]]
    rows = [
        [_range_of(told["backtest"]["clicks_seen"][place]), f"{told['backtest']['clicks_seen'][place]['questions']:,}"]
        + [share(told["backtest"]["models"][name]["by_clicks_seen"][place][metric]["mean"]) for name in order["random"]]
        for place in seen
    ]
    seen_heads = ["clicks seen", "questions", *order["random"]]
    return [*table(heads, lines), "", *wrapped(_in_words(told, order)), "", *table(seen_heads, rows)]


def _range_of(group: Record) -> str:
    least, most = group["least"], group["most"]
    return f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}"


def _in_words(told: Record, order: Mapping[str, Sequence[str]]) -> str:
    """Return sentences about the places, the differences that are beyond chance, and the new users and items."""
    names = {"random": "On the random split", "time": "On the time split", "backtest": "In the backtest"}
    sentences = [f"{told['metric']} and, in brackets, the place of the model. RecVAE has {told['epochs']} epochs."]
    for protocol, words in names.items():
        models = told[protocol]["models"]
        level = [name for name in order[protocol][1:] if models[name]["versus_best"]["high"] >= 0]
        also = f"; level with it, by the paired 95 % interval: {', '.join(level)}" if level else ", beyond chance"
        sentences.append(f"{words} {order[protocol][0]} is first{also}.")
    later = {name: _with_history(model, told) for name, model in told["backtest"]["models"].items()}
    said = ", ".join(f"{name} {share(later[name])}" for name in sorted(later, key=lambda name: -later[name])[:3])
    sentences.append(f"Over its questions of users with a click before, the first are {said}.")
    test = told["time"]["arrivals"]["test"]
    clicks = test["clicks_of_new_users"] + test["clicks_of_known_users"]
    asked = sum(window["questions"] for window in told["backtest"]["windows"])
    sentences.append(
        f"Of the time split's {told['time']['counts']['users']['test']:,} test users {test['new_users']:,} are new, "
        f"with {test['clicks_of_new_users'] / clicks:.0%} of the {clicks:,} clicks to be found; "
        f"{test['clicks_on_new_items'] / clicks:.1%} are on new items. The backtest has {asked:,} questions in "
        f"{len(told['backtest']['windows'])} windows. [Record](../benchmarks/results/backtest.json){day(told)}."
    )
    return " ".join(sentences)


def _with_history(model: Record, told: Record) -> float:
    """Return a model's mean over the questions of users with a click before."""
    asked = [group["questions"] for group in told["backtest"]["clicks_seen"]]
    means = [of_seen[told["metric"]]["mean"] or 0.0 for of_seen in model["by_clicks_seen"]]
    return float(sum(n * mean for n, mean in zip(asked[1:], means[1:], strict=True)) / sum(asked[1:]))
