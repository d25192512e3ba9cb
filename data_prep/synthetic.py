"""Seeded synthetic data: a small sample with planted taste groups, and matrices with the shape of ML-20M.

Both draw from NumPy's legacy generator, whose streams are frozen, so that a seed means the same data for ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.special import ndtri

from data_prep.film_titles import GROUPS, group_titles
from data_prep.interactions import Ids, Interactions
from data_prep.splits import LIANG_SEED, check_seed, make_split
from recvae.errors import FormatError, InputError

if TYPE_CHECKING:
    from data_prep.dataset import Dataset

GENERATOR_VERSION = 1  # raised whenever a seed would give another sample

_N_USERS = 2_000
_N_ITEMS = 500
_BACKGROUND = 0.05  # share of a user's clicks that follow popularity alone
_SLOPE = 0.9  # popularity falls as 1 / rank^slope within a group
_HELD_OUT_USERS = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """A sample and the probabilities from which it was drawn.

    ``interactions`` are in file order with a time column; ``titles`` and ``tags`` are by item id, the tag being the
    item's taste group. ``mix`` (n_users, n_groups) is each user's share of clicks by group and ``taste``
    (n_groups + 1, n_items) each group's distribution over items, the last row being plain popularity. Row u of ``mix``
    is the user with id str(u + 1), column i of ``taste`` the item with id str(i + 1).
    """

    seed: int
    interactions: Interactions
    titles: dict[str, str]
    tags: dict[str, tuple[str, ...]]
    mix: Floats
    taste: Floats

    def dataset(self, *, held_out_users: int = _HELD_OUT_USERS) -> "Dataset":
        """Split for strong generalisation and return the dataset; its manifest names the seed."""
        from data_prep.dataset import Dataset

        split = make_split(self.interactions, held_out_users=held_out_users)
        about = {
            "source": {"kind": "synthetic", "name": "sample", "generator": GENERATOR_VERSION, "seed": self.seed},
            "protocol": {
                "split": "strong",
                "held_out_users": held_out_users,
                "held_out_share": 0.2,
                "seed": LIANG_SEED,
            },
            "before_split": {
                "users": self.interactions.n_users,
                "items": self.interactions.n_items,
                "clicks": len(self.interactions),
            },
        }
        return Dataset.from_split(split, name="sample", about=about, titles=self.titles, item_tags=self.tags)

    def planted_scores(self, user_ids: Sequence[str] | Ids, item_ids: Sequence[str] | Ids) -> npt.NDArray[np.float32]:
        """Return the true click probabilities (len(user_ids), len(item_ids)), float32: the ceiling of any ranking."""
        users = np.array([int(user) - 1 for user in user_ids], dtype=np.int64)
        items = np.array([int(item) - 1 for item in item_ids], dtype=np.int64)
        scores: npt.NDArray[np.float32] = _probabilities(self.mix[users], self.taste[:, items]).astype(np.float32)
        return scores


def sample(seed: int = LIANG_SEED) -> Sample:
    """Draw 2,000 users, 500 items with made-up titles, and about 50,000 clicks.

    Each item belongs to one of 12 taste groups, each user mixes one to three groups, and popularity within a group has
    a long tail; a small share of clicks follows popularity alone. A user's items are drawn one after another without
    replacement. Raises :class:`InputError` for a seed that NumPy cannot use.
    """
    check_seed(seed)
    draw = np.random.RandomState(seed)
    n_groups = len(GROUPS)
    group_of = draw.permutation(np.arange(_N_ITEMS) % n_groups)
    titles = _titles(draw, group_of)

    weight = np.zeros(_N_ITEMS)
    for group in range(n_groups):
        members = draw.permutation(np.flatnonzero(group_of == group))
        weight[members] = (np.arange(members.size) + 1.0) ** -_SLOPE
    size = 1.0 / (np.arange(n_groups) + 3.0)  # some tastes are more common than others
    taste = np.zeros((n_groups + 1, _N_ITEMS))
    taste[group_of, np.arange(_N_ITEMS)] = weight
    taste[:n_groups] /= taste[:n_groups].sum(axis=1, keepdims=True)
    taste[n_groups] = (size / size.sum()) @ taste[:n_groups]

    mix = np.zeros((_N_USERS, n_groups))
    for user in range(_N_USERS):
        n = draw.choice(3, p=[0.35, 0.4, 0.25]) + 1
        groups = draw.choice(n_groups, size=n, replace=False, p=size / size.sum())
        mix[user, groups] = draw.dirichlet(np.full(n, 3.0))
    activity = np.clip(np.rint(np.exp(draw.normal(3.0, 0.5, _N_USERS))), 8, 80).astype(np.int64)

    users = np.repeat(np.arange(_N_USERS, dtype=np.int32), activity)
    items = np.empty(users.size, dtype=np.int32)
    start = 0
    for user, n in enumerate(activity.tolist()):
        chance = _probabilities(mix[user], taste)
        # Gumbel noise on the logarithms, sorted: draws without replacement, in the order in which they were drawn.
        keys = np.log(chance) + draw.gumbel(size=_N_ITEMS)
        items[start : start + n] = np.argsort(-keys)[:n]
        start += n
    begun = draw.randint(1_500_000_000, 1_600_000_000, _N_USERS)
    time = begun[users] + 3600 * (np.arange(users.size) - np.repeat(np.cumsum(activity) - activity, activity))
    names = [str(number + 1) for number in range(max(_N_USERS, _N_ITEMS))]
    interactions = Interactions(
        user=users,
        item=items,
        user_ids=np.array(names[:_N_USERS], dtype=np.object_),
        item_ids=np.array(names[:_N_ITEMS], dtype=np.object_),
        time=time.astype(np.int64),
        label="the sample",
    )
    tags: dict[str, tuple[str, ...]] = {names[item]: (GROUPS[group],) for item, group in enumerate(group_of.tolist())}
    return Sample(seed, interactions, titles, tags, mix, taste)


def planted_scores(dataset: "Dataset", split: str = "test") -> npt.NDArray[np.float32]:
    """Return the true click probabilities of a sample dataset's users, float32 (n_users(split), n_items).

    The truth is drawn again from the seed in the manifest. Raises :class:`InputError` where the dataset is not a sample
    and :class:`FormatError` where another version of the generator made it.
    """
    source = dataset.manifest.get("source", {})
    if source.get("kind") != "synthetic" or source.get("name") != "sample":
        raise InputError(f"The planted groups are known for the synthetic sample only, not for '{dataset.name}'.")
    if source.get("generator") != GENERATOR_VERSION:
        raise FormatError("The sample was made by another version of the generator. Make it again.")
    return sample(int(source["seed"])).planted_scores(dataset.user_ids(split), dataset.item_ids)


def _probabilities(mix: Floats, taste: Floats) -> Floats:
    """Mix the groups' distributions, with a little plain popularity: (..., n_groups) -> (..., n_items)."""
    mixed: Floats = (1 - _BACKGROUND) * (mix @ taste[:-1]) + _BACKGROUND * taste[-1]
    return mixed


def _titles(draw: np.random.RandomState, group_of: npt.NDArray[np.int64]) -> dict[str, str]:
    """Give each item a distinct title that suits its group, with a made-up year."""
    titles = {}
    for group in range(len(GROUPS)):
        members = np.flatnonzero(group_of == group)
        choices = group_titles(group)
        picked = draw.choice(len(choices), size=members.size, replace=False)
        years = draw.randint(1950, 2020, members.size)
        for item, pick, year in zip(members.tolist(), picked.tolist(), years.tolist(), strict=True):
            titles[str(item + 1)] = f"{choices[pick]} ({year})"
    return titles


# --- the shape of ML-20M -----------------------------------------------------------------------------------------

_BLOCK_CLICKS = 1 << 21
_ACTIVITY_SIGMA = 1.05  # deviation of the logarithm: with a minimum of 5 and a mean of 73 the median is near 45
_POPULARITY_SIGMA = 2.2
_POPULAR_ROUNDS = 8
_URN = 1 << 22
_MIN_ACTIVITY = 5
_MAX_SHARE = 0.5  # no user clicks more than half the catalogue, so that drawing without replacement ends


def ml20m_shape(
    seed: int = LIANG_SEED, users: int = 136_677, items: int = 20_108, clicks: int = 9_990_682
) -> csr_array:
    """Return clicks with ML-20M's shape and long tails: canonical CSR (users, items) of float32 ones, nnz = ``clicks``.

    Users' activity is log-normal above a minimum of 5 and items' popularity log-normal with a bounded head, which
    resembles ML-20M (rating >= 4) and is not fitted to it; tastes are independent, so this is for speed and memory, not
    for quality. Works in blocks: memory is the result and a few hundred megabytes. Raises :class:`InputError` where
    the sizes do not allow that many distinct clicks.
    """
    check_seed(seed)
    if users < 1 or items < 2 * _MIN_ACTIVITY:
        raise InputError(f"There must be at least one user and {2 * _MIN_ACTIVITY} items.")
    most = int(items * _MAX_SHARE)
    if not _MIN_ACTIVITY * users <= clicks <= users * most // 2:
        raise InputError(
            f"{clicks:,} clicks do not fit {users:,} users and {items:,} items: there must be from"
            f" {_MIN_ACTIVITY * users:,} to {users * most // 2:,}."
        )
    draw = np.random.RandomState(seed)
    activity = _activity(draw, users, clicks, most)
    urn = _urn(draw, items)
    indptr = np.concatenate([[0], np.cumsum(activity)])
    index = np.int32 if clicks < 2**31 else np.int64
    indices = np.empty(clicks, dtype=index)
    start = 0
    while start < users:
        stop = max(start + 1, int(np.searchsorted(indptr, indptr[start] + _BLOCK_CLICKS, side="right")) - 1)
        stop = min(stop, users)
        indices[indptr[start] : indptr[stop]] = _draw_rows(draw, activity[start:stop], urn, items)
        start = stop
    matrix = csr_array((np.ones(clicks, dtype=np.float32), indices, indptr.astype(index)), shape=(users, items))
    matrix.has_sorted_indices = True
    matrix.has_canonical_format = True
    return matrix


def _activity(draw: np.random.RandomState, users: int, clicks: int, most: int) -> npt.NDArray[np.int64]:
    """Return clicks per user (users,), at least 5 and at most ``most``, that add up to ``clicks``."""
    spare = clicks - _MIN_ACTIVITY * users
    room = most - _MIN_ACTIVITY
    weight = np.exp(draw.normal(0.0, _ACTIVITY_SIGMA, users))
    extra = np.minimum(np.floor(weight / weight.sum() * spare), room).astype(np.int64)
    while (missing := spare - int(extra.sum())) > 0:
        open_users = draw.permutation(np.flatnonzero(extra < room))[:missing]
        extra[open_users] += np.minimum(-(-missing // open_users.size), room - extra[open_users])
        if (excess := int(extra.sum()) - spare) > 0:
            extra[open_users[:excess]] -= 1
    activity: npt.NDArray[np.int64] = extra + _MIN_ACTIVITY
    return activity


def _urn(draw: np.random.RandomState, items: int) -> npt.NDArray[np.int32]:
    """Return an urn of item codes, each at least once and in proportion to its popularity: draws are array look-ups.

    Popularity has a long tail, and its head is at most about 150 times the mean.
    """
    weight = np.exp(_POPULARITY_SIGMA * ndtri((np.arange(items) + 0.5) / items))
    weight /= weight.mean()
    weight /= 1 + weight / 150
    copies = np.maximum(1, np.rint(weight / weight.sum() * max(_URN, 32 * items))).astype(np.int64)
    urn: npt.NDArray[np.int32] = np.repeat(draw.permutation(items).astype(np.int32), copies)
    return urn


def _draw_rows(
    draw: np.random.RandomState, counts: npt.NDArray[np.int64], urn: npt.NDArray[np.int32], n_items: int
) -> npt.NDArray[np.int64]:
    """Return ``counts[u]`` distinct items for each row u, ascending within the row, joined into one array.

    Draws with replacement, removes duplicates and draws the missing items again until none is missing. Later rounds
    draw uniformly, since by popularity alone very active users would take too long.
    """
    missing = counts  # by row; a pair of row and item is the key row * n_items + item
    open_keys = np.empty(0, dtype=np.int64)
    finished = []
    attempt = 0
    while missing.any():
        rows = np.repeat(np.arange(counts.size), missing)
        if attempt < _POPULAR_ROUNDS:
            picks = urn[draw.randint(0, urn.size, rows.size, dtype=np.int32)]
        else:
            picks = draw.randint(0, n_items, rows.size, dtype=np.int32)
        keys = np.concatenate([open_keys, rows * n_items + picks])
        keys.sort()
        new = np.ones(keys.size, dtype=bool)
        np.not_equal(keys[1:], keys[:-1], out=new[1:])
        keys = keys[new]
        rows = keys // n_items
        missing = np.where(missing > 0, counts - np.bincount(rows, minlength=counts.size), 0)
        still_open = (missing > 0)[rows]
        finished.append(keys[~still_open])
        open_keys = keys[still_open]
        attempt += 1
    result: npt.NDArray[np.int64] = np.concatenate(finished)
    result.sort()
    result %= n_items
    return result
