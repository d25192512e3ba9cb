"""``recvae quickstart``: the whole of recvae on a small made-up sample, in about a minute and without a network."""

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recvae.cli.options import Debug, Device, Json, Overwrite, Quiet, Seed
from recvae.cli.terminal import Terminal, amount, share

if TYPE_CHECKING:
    from rich.table import Table

    from data_prep.dataset import Dataset
    from eval import Evaluation
    from recvae.recommender import Recommender
    from recvae.report import ModelResult

MODELS = ("recvae", "mult-vae", "ease", "implicit-als", "popularity")
METRICS = ("ndcg@10", "recall@20", "ndcg@100")
METRIC = METRICS[0]
CEILING = "planted groups"
_BAR = 20  # characters of the ceiling's bar
_LIKED = 10  # clicks of the user who is shown: enough to see a taste, few enough for one screen


@dataclass(frozen=True)
class _Person:
    """One test user: what was shown to the model, what it ranks first, and what the user clicked besides."""

    user: str
    liked: list[int]
    ranked: list[int]
    found: set[int]


def quickstart(
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the sample and the models in this folder.", show_default=False),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a small sample, train five models on it, compare them, and recommend films to one user."""
    from data_prep import sample
    from recvae.bench import RESULTS, contestants, facts, measure
    from recvae.files import refuse_existing, whole_folder, write_json
    from recvae.registry import entry
    from recvae.report import environment, results

    terminal = Terminal(json=json, quiet=quiet)
    began = time.perf_counter()
    if out is not None:
        refuse_existing(out, marker=RESULTS, overwrite=overwrite)
    data = (sample() if seed is None else sample(seed)).dataset()
    _introduce(terminal, data)
    models: dict[str, Recommender] = {}
    measured: dict[str, ModelResult] = {}
    for contestant in contestants(data.name, MODELS, seed=seed):
        name, train = contestant.config.name, contestant.config.train
        with terminal.epochs(
            METRIC, epochs=None if train is None else train.epochs, label=entry(name).title
        ) as display:
            models[name], measured[name] = measure(
                contestant.config,
                data,
                METRICS,
                metric=METRIC,
                device=device,
                on_step=display.step,
                on_epoch=display.epoch if display.bar is not None else None,  # elsewhere a line per model will do
            )
        terminal.say(f"  trained {entry(name).title} in {measured[name].train_seconds:.1f} s")
    ceiling = _ceiling(data)
    value = results(measured, facts(data, split="test", validation_metric=METRIC), environment(), metric=METRIC)
    person = _person(models["recvae"], data)
    value |= _shown(value, ceiling, models["recvae"], person)
    if out is not None:
        with whole_folder(out, marker=RESULTS, overwrite=overwrite) as folder:
            data.save(folder / "dataset")
            for name, model in models.items():
                model.save(folder / name)
            write_json(folder / RESULTS, value)
    terminal.result(_comparison(value), _recommended(models["recvae"], data, person))
    terminal.note(f"\nDone in {time.perf_counter() - began:.0f} s.")
    terminal.next(*_commands(out, models["recvae"], person))
    terminal.document(value)


def _introduce(terminal: Terminal, data: "Dataset") -> None:
    """Say what the sample is."""
    from rich.text import Text

    terminal.note(
        Text.assemble(
            ("recvae quickstart", "bold"),
            f"\n\nA made-up film club: {amount(data.n_users('train'), 'member')} to learn from, {data.n_items} films, "
            f"{amount(data.manifest['counts']['clicks']['train'], 'click')}.\n"
            "Each member has one to three of 12 planted tastes. The models see clicks only, and rank films for\n"
            f"{data.n_users('test')} members they have never met.\n",
        )
    )


def _ceiling(data: "Dataset") -> "Evaluation":
    """Evaluate the ranking that knows every user's planted groups: no model can be expected to beat it."""
    import numpy as np
    import torch

    from data_prep import planted_scores
    from eval import evaluate
    from recvae.ranking import rank

    rows = np.flatnonzero(np.diff(data.test_out.indptr))
    truth = torch.from_numpy(planted_scores(data)[rows])

    class Truth:
        """Ranks all ``rows`` by the truth, in one batch."""

        def recommend(self, histories: Any, k: int = 10, **options: Any) -> Any:
            return rank(lambda part: truth.clone(), histories, k, batch_size=len(rows), **options)

    return evaluate(Truth(), data.test_in[rows], data.test_out[rows], METRICS, batch_size=len(rows))


def _person(model: "Recommender", data: "Dataset") -> _Person:
    """Choose the first test user with ten clicks shown or a little more, and rank films for them."""
    import numpy as np

    clicks = np.diff(data.test_in.indptr)
    row = int(np.flatnonzero(clicks >= min(_LIKED, int(clicks.max())))[0])
    shown = data.test_in[[row]]
    ids, _ = model.recommend(shown, k=10)
    found = set(data.test_out[[row]].indices.tolist())
    return _Person(str(data.user_ids("test")[row]), shown.indices.tolist(), ids[0].tolist(), found)


def _shown(value: Mapping[str, Any], ceiling: "Evaluation", model: "Recommender", person: _Person) -> dict[str, Any]:
    """Return what quickstart adds to the results shape."""
    best = ceiling.metrics[METRIC].mean
    popular = value["models"]["popularity"]["metrics"][METRIC]["mean"]
    means = {name: result["metrics"][METRIC]["mean"] for name, result in value["models"].items()}
    return {
        "ceiling": {name: metric.to_dict() for name, metric in ceiling.metrics.items()},
        "times_popularity": {name: round(mean / popular, 4) for name, mean in means.items()},
        "share_of_ceiling": {name: round(mean / best, 4) for name, mean in means.items()},
        "recommended": {
            "user": person.user,
            "history": [_item(model, i) for i in person.liked],
            "items": [{**_item(model, i), "clicked_later": i in person.found} for i in person.ranked],
        },
    }


def _item(model: "Recommender", column: int) -> dict[str, str]:
    return {"item_id": model.items.ids[column], "title": model.items.titles[column]}


def _comparison(value: Mapping[str, Any]) -> "Table":
    """Return the table of models between popularity and the ceiling."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from recvae.registry import entry
    from recvae.report import ranked_models

    top = value["ceiling"][METRIC]["mean"]
    table = Table(
        box=SIMPLE_HEAD, padding=(0, 2, 0, 0), title="Who ranks best?", title_justify="left", title_style="bold"
    )
    for heading, justify in (
        ("", "left"),
        (METRIC, "right"),
        ("", "left"),
        ("x popularity", "right"),
        ("train s", "right"),
    ):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]

    def row(title: str, metric: Mapping[str, Any], times: str, seconds: str, style: str) -> None:
        mean, se = metric["mean"], metric["se"]
        figure = Text(share(mean), style=style).append(f" ±{share(se)}", style="not bold dim")
        bar = Text("█" * round(_BAR * mean / top), style=style or "cyan").append(
            f" {100 * mean / top:.0f} %", style="dim"
        )
        table.add_row(Text(title, style=style), figure, bar, times, seconds)

    row("the planted groups", value["ceiling"][METRIC], "", "", "dim")
    for place, name in enumerate(ranked_models(value)):
        model = value["models"][name]
        style = "bold green" if place == 0 else ""
        times = f"{value['times_popularity'][name]:.2f}"
        row(entry(name).title, model["metrics"][METRIC], times, f"{model['train_seconds']:.1f}", style)
    users = value["ceiling"][METRIC]["users"]
    table.caption = (
        f"Bars: share of what a ranking reaches that knows the planted groups. ± standard error, {users} users."
    )
    table.caption_justify = "left"
    return table


def _recommended(model: "Recommender", data: "Dataset", person: _Person) -> "Table":
    """Return one user's history and recommendations, side by side."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    def film(column: int, *, mark: bool) -> Text:
        tags = ", ".join(data.item_tags.get(model.items.ids[column], ()))
        text = Text(model.items.titles[column], style="bold" if mark else "")
        return text.append(f"  {tags}", style="not bold dim").append(" ★" if mark else "", style="yellow")

    table = Table(
        box=SIMPLE_HEAD,
        padding=(0, 2, 0, 0),
        title=f"Films for member {person.user}",
        title_justify="left",
        title_style="bold",
        caption="★ the member did watch it: these clicks were hidden from the model. Tastes are shown, not used.",
        caption_justify="left",
    )
    table.add_column(f"watched ({len(person.liked)})", overflow="fold")
    table.add_column("", justify="right")
    table.add_column("RecVAE recommends", overflow="fold")
    for place, column in enumerate(person.ranked):
        liked = film(person.liked[place], mark=False) if place < len(person.liked) else Text("")
        table.add_row(liked, str(place + 1), film(column, mark=column in person.found))
    return table


def _commands(out: Path | None, model: "Recommender", person: _Person) -> list[str]:
    """Return commands to go on with: the kept models, else real data."""
    if out is not None:
        title = shlex.quote(model.items.titles[person.liked[0]])
        run = shlex.quote(str(out / "recvae"))
        return [
            f"recvae recommend {run} --item {title}",
            f"recvae similar {run} --item {title}",
            f"recvae info {shlex.quote(str(out / 'dataset'))}",
        ]
    return [
        "recvae prepare ml-100k --out ml-100k                         MovieLens, 5 MB to download",
        "recvae train ml-100k --model recvae --out runs/ml-100k-recvae",
        "recvae quickstart --out sample                               this again, keeping data and models",
    ]
