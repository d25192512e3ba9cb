"""A conditional VAE asked for one genre, against an unconditional model whose ranking is filtered to the genre.

For every genre of enough items: the share of the genre in the top 10 of all users, with no filter; and recall@20 of the
held-out items of the genre, for the users who have some, beside that of the unconditional model, which is only allowed
items of the genre. The last row of the table and the figures are means over genres. Usage:

    recvae train ml-1m --config ml-1m-mult-vae --out plain
    recvae train ml-1m --config ml-1m-conditional-vae --out conditional
    python benchmarks/conditional.py ml-1m conditional plain
"""

from pathlib import Path
from typing import Any

import numpy as np
from harness import alone, options, record
from numpy.typing import NDArray

SHARE_AT, RECALL = 10, "recall@20"
DRAWS = 2000  # of the bootstrap over users

Values = NDArray[np.float64]


def of_genre(matrix: Any, items: NDArray[np.int64]) -> Any:
    """Return a CSR with the clicks on some items only."""
    from scipy.sparse import csr_array

    kept = np.isin(matrix.indices, items)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[kept]
    return csr_array((matrix.data[kept], (rows, matrix.indices[kept])), shape=matrix.shape)


def recall(ids: Any, hidden: Any) -> Values:
    """Return recall@20 of each user, NaN for one without held-out items."""
    from eval import per_user_metrics

    return per_user_metrics(ids, hidden, RECALL)[RECALL]


def measured(data: Any, split: str, asked: Any, plain: Any, least: int) -> tuple[dict[str, Any], dict[str, Values]]:
    """Return each genre's figures, and recall by user and genre, (n_users, n_genres), by the name of the way."""
    shown, hidden = data.matrix(f"{split}_in"), data.matrix(f"{split}_out")
    genres: dict[str, list[int]] = {}
    for column, item in enumerate(data.item_ids):
        for tag in data.item_tags.get(item, ()):
            genres.setdefault(tag, []).append(column)
    table: dict[str, Any] = {}
    ways: dict[str, list[Values]] = {"asked": [], "filtered": [], "asked and filtered": []}
    for genre, columns in sorted(genres.items()):
        if len(columns) < least:
            continue
        items = np.array(columns)
        wanted = of_genre(hidden, items)
        ids, _ = asked.recommend(shown, 20, conditions=[genre])
        ways["asked"].append(recall(ids, wanted))
        ways["filtered"].append(recall(plain.recommend(shown, 20, allow=items)[0], wanted))
        both, _ = asked.recommend(shown, 20, conditions=[genre], allow=items)
        ways["asked and filtered"].append(recall(both, wanted))
        means = {way: float(np.nanmean(values[-1])) for way, values in ways.items()}
        table[genre] = {
            "items": len(items),
            "users": int(np.count_nonzero(np.diff(wanted.indptr))),
            "share": float(np.isin(ids[:, :SHARE_AT], items).mean()),
            "unasked_share": float(np.isin(plain.recommend(shown, SHARE_AT)[0], items).mean()),
            **means,
            "ratio": means["asked"] / means["filtered"],
        }
    return table, {way: np.stack(values, axis=1) for way, values in ways.items()}


def macro_ratio(asked: Values, filtered: Values) -> float:
    """Return mean over genres of mean recall, of the one over the other."""
    return float(np.nanmean(asked, axis=0).mean() / np.nanmean(filtered, axis=0).mean())


def interval(asked: Values, filtered: Values) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of :func:`macro_ratio` over users."""
    draw = np.random.default_rng(0)
    ratios = []
    for _ in range(DRAWS):
        users = draw.integers(len(asked), size=len(asked))
        ratios.append(macro_ratio(asked[users], filtered[users]))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = options(__doc__, rounds=1)
    parser.add_argument("dataset", type=Path, help="a dataset folder")
    parser.add_argument("asked", type=Path, help="a conditional-vae's run folder")
    parser.add_argument("plain", type=Path, help="an unconditional model's run folder")
    parser.add_argument("--split", default="test", choices=("test", "validation"), help="users (default: test)")
    parser.add_argument("--least", type=int, default=50, help="items of a genre (default: %(default)s)")
    arguments = parser.parse_args()
    from data_prep import Dataset
    from recvae import load
    from recvae.bench import evaluated, facts
    from recvae.cli.evaluate import refuse_other_data

    data = Dataset.load(arguments.dataset)
    asked, plain = load(arguments.asked), load(arguments.plain)
    for model, run in ((asked, arguments.asked), (plain, arguments.plain)):
        refuse_other_data(model, run, data, arguments.dataset)
    genres, by_user = measured(data, arguments.split, asked, plain, arguments.least)
    columns = ("items", "users", "share", "unasked_share", "asked", "filtered", "ratio", "asked and filtered")
    macro = {column: float(np.mean([row[column] for row in genres.values()])) for column in columns[2:]}
    print(f"{'':14}" + "".join(f"{column:>19}" for column in columns))
    for name, row in {**genres, "mean": {"items": "", "users": "", **macro}}.items():
        cells = (row[column] if isinstance(row[column], int | str) else f"{row[column]:.4f}" for column in columns)
        print(f"{name:14}" + "".join(f"{cell:>19}" for cell in cells))
    ratio = macro_ratio(by_user["asked"], by_user["filtered"])
    low, high = interval(by_user["asked"], by_user["filtered"])
    print(f"\nmean recall asked / filtered: {ratio:.4f} [{low:.4f}, {high:.4f}]; mean of ratios: {macro['ratio']:.4f}")
    overall = {}
    for name, model in (("conditional, not asked", asked), ("unconditional", plain)):
        metrics = evaluated(model, data, f"{RECALL},ndcg@100", split=arguments.split).metrics
        print(f"{name}: " + ", ".join(f"{key} {value.mean:.4f} ± {value.se:.4f}" for key, value in metrics.items()))
        overall[name] = {key: value.to_dict() for key, value in metrics.items()}
    results = {
        "title": "A conditional VAE asked for one genre",
        "about": f"{data.name}, {arguments.split} users, genres of at least {arguments.least} items. share: of the "
        f"genre in the top {SHARE_AT} when it is asked for, with no filter, over all users; unasked_share: in the "
        f"unconditional model's. asked, filtered: {RECALL} of held-out items of the genre, of the conditional model "
        "asked for it and of the unconditional model allowed its items only; asked and filtered: both. The ratio's "
        "interval is a 95 % bootstrap over users.",
        "figures": [
            alone(f"share of the genre in the top {SHARE_AT}, mean over genres", [macro["share"]], ""),
            alone(f"{RECALL}, asked for the genre, mean over genres", [macro["asked"]], ""),
            alone(f"{RECALL}, unconditional and filtered, mean over genres", [macro["filtered"]], ""),
            {**alone("ratio of the two", [ratio], ""), "low": low, "high": high},
        ],
        "genres": genres,
        "mean": macro,
        "not_asked": overall,
        "dataset": facts(data),
        "models": {name: model.config.to_dict() for name, model in (("conditional", asked), ("unconditional", plain))},
    }
    record("conditional", results, arguments)


if __name__ == "__main__":
    main()
