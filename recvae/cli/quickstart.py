"""``recvae quickstart``: the whole of recvae on a small made-up sample, in less than a minute and without a network."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import Debug, Device, Json, Overwrite, Quiet, Seed, Threads
from recvae.cli.output import check_folder, hold
from recvae.cli.serve import need_extra
from recvae.cli.terminal import Terminal, amount, share
from recvae.cli.threads import use_threads
from recvae.errors import InputError
from recvae.files import Document, JsonObject

if TYPE_CHECKING:
    from rich.table import Table

    from data_prep.dataset import Dataset
    from eval import Evaluation
    from recvae.experiments.benchmark import Contestant
    from recvae.recommender import Recommender
    from recvae.reports.results import ModelResult
    from recvae.serving.logs import Log

METRICS = ("ndcg@10", "recall@20", "ndcg@100")
METRIC = METRICS[0]
PORT = 8000  # of the page, where no other program has it
_BAR = 14  # characters of the ceiling's bar
_FEW, _MANY = 8, 12  # clicks of the user who is shown: enough to see a taste, few enough for one screen
_LEFT: Any = {"title_justify": "left", "title_style": "bold", "caption_justify": "left"}


@dataclass(frozen=True)
class _Person:
    """One test user; the columns of the films in the history, of the films ranked first, and of the held-out films."""

    user: str
    watched: list[int]
    ranked: list[int]
    hidden: set[int]


def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the sample and the models in this folder.", show_default=False),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = "1",  # on a sample this small, sharing the work costs more than it saves
    overwrite: Overwrite = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="End on a page in the browser, where the trained models answer.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="The same, and open the page.")] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a small sample, train five models on it, compare them, and recommend films to one user."""
    use_threads(threads)  # before torch is loaded
    from data_prep import sample
    from recvae.defaults import Size, recommended
    from recvae.experiments.benchmark import contestants
    from recvae.experiments.benchmark_folder import RESULTS
    from recvae.experiments.facts import facts
    from recvae.files import whole_folder, write_json
    from recvae.reports.machine import environment
    from recvae.reports.results import results

    terminal = Terminal(json=json, quiet=quiet)
    serve = serve or open_page
    if serve:
        if json:
            raise InputError("--json ends with its document and --serve goes on until Ctrl-C: leave one of them out.")
        need_extra()
    began = time.perf_counter()
    if out is not None:
        hold(out)
        check_folder(out, marker=RESULTS, overwrite=overwrite)
    data = (sample() if seed is None else sample(seed)).dataset()
    _introduce(terminal, data)
    models: dict[str, Recommender] = {}
    measured: dict[str, ModelResult] = {}
    for contestant in contestants(data.manifest, models_shown(), seed=seed):
        name = contestant.config.name
        models[name], measured[name] = _measured(terminal, contestant, data, device)
    ceiling, best = _ceiling(data), recommended(Size.of_training(data.manifest))
    value = results(measured, facts(data, split="test", validation_metric=METRIC), environment(), metric=METRIC)
    person = _person(models[best], data)
    value |= _findings(value, ceiling, models[best], person)
    if out is not None:
        with whole_folder(out, marker=RESULTS, overwrite=overwrite) as folder:
            data.save(folder / "dataset")
            for name, model in models.items():
                model.save(folder / name)
            write_json(folder / RESULTS, value)
    terminal.result(_comparison(value), "", _recommended(data, best, person))
    terminal.note(f"\nDone in {time.perf_counter() - began:.0f} s.")
    terminal.next(*_commands(out, data, best, person))
    terminal.document(value)
    if serve:
        raise typer.Exit(_serve(terminal, models, best, out, device, open_page=open_page))


def models_shown() -> list[str]:
    """Return the names of the models that are trained."""
    from recvae.registry import models

    return [name for name, each in models().items() if each.model_class().introduced]


def _introduce(terminal: Terminal, data: "Dataset") -> None:
    """Introduce the sample: its members, films and planted tastes."""
    from rich.text import Text

    members, clicks = amount(data.n_users("train"), "member"), data.manifest["counts"]["clicks"]["train"]
    terminal.note(
        Text("recvae quickstart\n", style="bold"),
        f"A made-up film club: {members}, {data.n_items} films, {clicks:,} clicks. Each member\n"
        f"has one to three of twelve planted tastes. The models learn from the clicks\n"
        f"alone, and then rank films for {data.n_users('test')} members they have never met.\n",
    )


def _measured(
    terminal: Terminal, contestant: "Contestant", data: "Dataset", device: str
) -> "tuple[Recommender, ModelResult]":
    """Train and evaluate one model, and show that something happens."""
    from recvae.experiments.measure import measure
    from recvae.registry import entry

    config = contestant.config
    epochs = None if config.train is None else config.train.epochs
    with terminal.epochs(METRIC, epochs=epochs, label=entry(config.name).title) as display:
        model, result = measure(
            config,
            data,
            METRICS,
            metric=METRIC,
            device=device,
            on_step=display.step,
            on_epoch=None if display.bar is None else display.epoch,  # elsewhere a line per model will do
        )
    terminal.say(f"  trained {entry(config.name).title} in {result.train_seconds:.1f} s")
    return model, result


def _ceiling(data: "Dataset") -> "Evaluation":
    """Evaluate the ranking that knows every user's planted tastes: no model can be expected to beat it."""
    import numpy as np
    import torch

    from data_prep import planted_scores
    from eval import evaluate
    from recvae.queries import Answer, Query
    from recvae.ranking.lists import rank

    rows = np.flatnonzero(np.diff(data.test_out.indptr))
    truth = torch.from_numpy(planted_scores(data)[rows])

    class Truth:
        """Ranks all ``rows`` by the truth, in one batch."""

        def answer(self, query: Query) -> Answer:
            return rank(lambda part: truth.clone(), query, batch_size=len(rows))

    return evaluate(Truth(), data.test_in[rows], data.test_out[rows], METRICS, batch_size=len(rows))


def _person(model: "Recommender", data: "Dataset") -> _Person:
    """Choose the first test user with some films to show and more than one taste, and rank films for them."""
    import numpy as np

    clicks = np.diff(data.test_in.indptr)
    able = np.flatnonzero((clicks >= _FEW) & (clicks <= _MANY))
    mixed = [row for row in able if _tastes(data, data.test_in[[row]].indices)[0][1] <= 0.7 * clicks[row]]
    row = int(mixed[0] if mixed else able[0] if len(able) else clicks.argmax())
    shown = data.test_in[[row]]
    ids, _ = model.recommend(shown, k=10)
    hidden = set(data.test_out[[row]].indices.tolist())
    return _Person(str(data.user_ids("test")[row]), shown.indices.tolist(), ids[0].tolist(), hidden)


def _tastes(data: "Dataset", columns: Iterable[int]) -> list[tuple[str, int]]:
    """Return the tastes of some films with their counts, the most common first."""
    return Counter(tag for i in columns for tag in data.item_tags.get(str(data.item_ids[i]), ())).most_common()


def _findings(value: Document, ceiling: "Evaluation", model: "Recommender", person: _Person) -> JsonObject:
    """Return the fields that quickstart adds to the results shape."""
    from recvae.baselines.popularity import Popularity

    best = ceiling.metrics[METRIC].mean
    means = {name: result["metrics"][METRIC]["mean"] for name, result in value["models"].items()}
    ids, titles = model.items.ids, model.items.titles
    films = {column: {"item_id": ids[column], "title": titles[column]} for column in (*person.watched, *person.ranked)}
    return {
        "ceiling": {name: metric.to_dict() for name, metric in ceiling.metrics.items()},
        "times_popularity": {name: round(mean / means[Popularity.name], 4) for name, mean in means.items()},
        "share_of_ceiling": {name: round(mean / best, 4) for name, mean in means.items()},
        "recommended": {
            "user": person.user,
            "history": [films[i] for i in person.watched],
            "items": [{**films[i], "hidden_click": i in person.hidden} for i in person.ranked],
        },
    }


def _comparison(value: Document) -> "Table":
    """Return the table of models between popularity and the ceiling."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from recvae.registry import entry
    from recvae.reports.results import ranked_models

    top, users = value["ceiling"][METRIC]["mean"], value["ceiling"][METRIC]["users"]
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        title="Who ranks best?",
        caption=f"The ceiling is a ranking that knows the planted tastes. ± standard error, {users} members."
        + _as_good_as_the_best(value),
        **_LEFT,
    )
    for heading in ("", METRIC, "of the ceiling", "x popular", "train s"):
        table.add_column(heading, justify="left" if heading in ("", "of the ceiling") else "right", no_wrap=True)

    def row(title: str, metric: Document, times: str, seconds: str, style: str) -> None:
        mean, se = metric["mean"], metric["se"]
        figure = Text(share(mean), style=style).append(f" ±{share(se)}", style="not bold dim")
        bar = Text("█" * round(_BAR * mean / top), style=style or "cyan").append(f" {100 * mean / top:.0f} %")
        table.add_row(Text(title, style=style), figure, bar, times, seconds)

    row("the ceiling", value["ceiling"][METRIC], "", "", "dim")
    for place, name in enumerate(ranked_models(value)):
        model = value["models"][name]
        times, seconds = f"{value['times_popularity'][name]:.2f}", f"{model['train_seconds']:.1f}"
        row(entry(name).title, model["metrics"][METRIC], times, seconds, "bold green" if place == 0 else "")
    return table


def _as_good_as_the_best(value: Document) -> str:
    """Name the models that this sample cannot tell from the best one: the interval of the difference holds 0."""
    from recvae.registry import entry

    versus = {name: model.get("versus_best") for name, model in value["models"].items()}
    close = [entry(name).title for name, pair in versus.items() if pair and pair["high"] >= 0]
    return f"\nToo close to the best to tell apart (paired, 95 %): {', '.join(close)}." if close else ""


def _recommended(data: "Dataset", model: str, person: _Person) -> "Table":
    """Return one user's history and recommendations, side by side; years are left out to save room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from recvae.registry import entry

    def film(column: int | None) -> Text:
        return Text("" if column is None else str(data.item_titles[column]).rpartition(" (")[0])

    tastes = ", ".join(f"{taste} {count}" for taste, count in _tastes(data, person.watched)[:3])
    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        title=f"Films for member {person.user} ({tastes})",
        caption="★ was hidden from the model, and the member did watch it.",
        **_LEFT,
    )
    table.add_column("has watched", overflow="fold")
    table.add_column("", justify="right")
    table.add_column(f"{entry(model).title} recommends", overflow="fold")
    for place, (watched, ranked) in enumerate(zip_longest(person.watched, person.ranked), start=1):
        star = Text(" ★" if ranked in person.hidden else "", style="yellow")
        table.add_row(film(watched), "" if ranked is None else str(place), film(ranked) + star)
    return table


def _serve(
    terminal: Terminal, models: "dict[str, Recommender]", best: str, out: Path | None, device: str, *, open_page: bool
) -> int:
    """Serve the trained models, the recommended one first, to this machine until Ctrl-C; return the exit status."""
    import webbrowser
    from tempfile import TemporaryDirectory
    from threading import Thread

    from recvae.serving.http import Service
    from recvae.serving.server import listen, serve, url
    from recvae.serving.settings import Settings

    names = [best, *(name for name in models if name != best)]
    with TemporaryDirectory(prefix="recvae-") as own:
        if out is None:
            for name in names:
                models[name].save(Path(own) / name)
        runs = {name: (Path(own) if out is None else out) / name for name in names}
        settings = Settings(runs=runs, port=PORT, device=device, access_log=False)
        try:
            listener = listen(settings.host, PORT)
        except InputError:  # another program listens there
            listener = listen(settings.host, 0)
        address = url(listener)

        def ready(service: Service) -> None:
            terminal.result(f"\nThe page: {address} until Ctrl-C.")
            if open_page:
                Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        return serve(settings, listener, _troubles(), ready)


def _troubles() -> "Log":
    """Return a service's log that keeps what went wrong, on stderr; whoever tries a page asks for no more."""
    from recvae.serving.logs import Log

    class Troubles(Log):
        def write(self, event: str, **facts: object) -> None:
            if event not in ("model loaded", "ready", "end"):
                super().write(event, **facts)

    return Troubles(sys.stderr)


def _commands(out: Path | None, data: "Dataset", model: str, person: _Person) -> list[str]:
    """Return commands to go on with: the kept models, else real data."""
    if out is not None:
        title = shlex.quote(str(data.item_titles[person.watched[0]]))
        run = shlex.quote(str(out / model))
        return [
            f"recvae recommend {run} --item {title}",
            f"recvae similar {run} --item {title}",
            f"recvae info {shlex.quote(str(out / 'dataset'))}",
            f"recvae serve {run}",
        ]
    return [
        "recvae prepare ml-100k --out ml-100k        # MovieLens, a download of 5 MB",
        f"recvae train ml-100k --config ml-100k-{model} --out runs/ml-100k",
        "recvae quickstart --out sample              # this again, keeping the data and the models",
        "recvae quickstart --serve                   # this again, and a page where the models answer",
    ]
