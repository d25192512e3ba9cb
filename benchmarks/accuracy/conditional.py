"""A conditional VAE asked for one genre, against an unconditional model whose ranking is filtered to the genre.

The commands are in docs/models/conditional-vae.md. For every genre of enough items: the share of the genre in the top
10 of all users, with no filter; and recall@20 of the held-out items of the genre, for the users who have some, beside
that of the unconditional model, which is only allowed items of the genre. Figures are means over genres.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.tables import conditional
from benchmarks.harness import alone, parser, write_record
from data_prep import Dataset
from eval import per_user_metrics, resampled_means
from recvae import Recommender, load
from recvae.cli.catalogues import refuse_other_data
from recvae.experiments.facts import facts
from recvae.experiments.measure import evaluated

SHARE_AT, RECALL = 10, "recall@20"
Values = NDArray[np.float64]


def measured(
    data: Dataset, split: str, asked: Recommender, plain: Recommender, least: int
) -> tuple[dict[str, Any], dict[str, list[Values]]]:
    """Return each genre's figures, and recall of every user, genre by genre, by the name of the way."""
    shown, hidden = data.matrix(f"{split}_in"), data.matrix(f"{split}_out")
    genres: dict[str, list[int]] = {}
    for column, item in enumerate(data.item_ids):
        for tag in data.item_tags.get(item, ()):
            genres.setdefault(tag, []).append(column)
    figures: dict[str, Any] = {}
    ways: dict[str, list[Values]] = {"asked": [], "filtered": [], "asked and filtered": []}
    for genre, columns in sorted(genres.items()):
        if len(columns) < least:
            continue
        items = np.array(columns)
        wanted = hidden.copy()
        wanted.data *= np.isin(wanted.indices, items)
        wanted.eliminate_zeros()
        ids, _ = asked.recommend(shown, 20, conditions=[genre])
        filtered, _ = plain.recommend(shown, 20, allow=items)
        both, _ = asked.recommend(shown, 20, conditions=[genre], allow=items)
        for values, lists in zip(ways.values(), (ids, filtered, both), strict=True):
            values.append(per_user_metrics(lists, wanted, RECALL)[RECALL])
        means = {way: float(np.nanmean(values[-1])) for way, values in ways.items()}
        figures[genre] = {
            "items": len(items),
            "users": int(np.count_nonzero(np.diff(wanted.indptr))),
            "share": float(np.isin(ids[:, :SHARE_AT], items).mean()),
            "unasked_share": float(np.isin(plain.recommend(shown, SHARE_AT).ids, items).mean()),
            **means,
            "ratio": means["asked"] / means["filtered"],
        }
    return figures, ways


def macro_ratio(asked: list[Values], filtered: list[Values]) -> tuple[float, float, float]:
    """Return mean over genres of mean recall, of the one over the other, and its 95 % bootstrap interval over users."""
    value = np.mean([np.nanmean(v) for v in asked]) / np.mean([np.nanmean(v) for v in filtered])
    means = resampled_means([*asked, *filtered])
    ratios = means[:, : len(asked)].mean(axis=1) / means[:, len(asked) :].mean(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(value), float(low), float(high)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("dataset", type=Path, help="a dataset folder")
    options.add_argument("asked", type=Path, help="a conditional-vae's run folder")
    options.add_argument("plain", type=Path, help="an unconditional model's run folder")
    options.add_argument("--split", default="test", choices=("test", "validation"), help="users (default: test)")
    options.add_argument("--least", type=int, default=50, help="items of a genre (default: %(default)s)")
    arguments = options.parse_args()
    data = Dataset.load(arguments.dataset)
    asked, plain = load(arguments.asked), load(arguments.plain)
    for model, run in ((asked, arguments.asked), (plain, arguments.plain)):
        refuse_other_data(model, run, data, arguments.dataset)
    genres, ways = measured(data, arguments.split, asked, plain, arguments.least)
    mean = {column: float(np.mean([row[column] for row in genres.values()])) for column in next(iter(genres.values()))}
    ratio, low, high = macro_ratio(ways["asked"], ways["filtered"])
    overall = {}
    for name, model in (("conditional, not asked", asked), ("unconditional", plain)):
        evaluation = evaluated(model, data, f"{RECALL},ndcg@100", split=arguments.split)
        overall[name] = {key: value.to_dict() for key, value in evaluation.metrics.items()}
    results: dict[str, Any] = {
        "figures": [{**alone("ratio of asked to filtered", [ratio], ""), "low": low, "high": high}],
        "genres": genres,
        "mean": mean,
        "not_asked": overall,
        "dataset": facts(data),
        "models": {name: model.config.to_dict() for name, model in (("conditional", asked), ("unconditional", plain))},
    }
    print("", *conditional(results), sep="\n")
    write_record("conditional", results, arguments)


if __name__ == "__main__":
    main()
