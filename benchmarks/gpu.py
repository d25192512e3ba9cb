"""Everything that needs a CUDA device, in one run of a few minutes: training, ranking, one user, scale, ceilings.

    python benchmarks/gpu.py                            on a CUDA device, with nothing but torch, numpy and scipy
    python benchmarks/gpu.py --small --device cpu       tiny shapes anywhere: tries the program, measures nothing

Every figure names its precision. Clicks and weights are on the device before the clock starts; figures that count
copies from or to the host say so.
"""

import gc
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_device import PRECISIONS, Products, Setting, card, ceilings, small, within
from gpu_steps import scale, waits
from gpu_training import Part, batches, mult_vae, recvae, train_large_batch, train_mult_vae, train_recvae
from harness import Contender, Figure, Seconds, against, alone, interleaved, options, record, table
from torch import Tensor

from recvae.batches import Batch, Clicks
from recvae.models.base import Network
from recvae.products import precision, product
from recvae.ranking import rank, top_k

K = 10  # items for one user

# --- lists for all users -----------------------------------------------------------------------------------------


def lists_on_device(users: Tensor, items: Tensor, clicks: Clicks, k: int, block: int) -> list[tuple[Tensor, Tensor]]:
    """Return the k best of every user, block by block of users; everything stays on the device."""
    lists, done = [], 0
    for batch in clicks.in_order(block):
        scores = product(users[done : done + len(batch)], items)
        scores.view(-1).index_fill_(0, batch.cells, -torch.inf)
        lists.append(top_k(scores, k))
        done += len(batch)
    return lists


def lists_by_rank(users: Tensor, items: Tensor, histories: Any, k: int, block: int | None) -> Any:
    """Return the k best of every user by what all of recvae ranks with; histories and lists are the host's."""
    done = 0

    def score(rows: Any) -> Tensor:
        nonlocal done
        done += rows.shape[0]
        return product(users[done - rows.shape[0] : done], items)

    return rank(score, histories, k, batch_size=block)


def check_lists(setting: Setting) -> None:
    """Compare both ways with a stable sort, where arithmetic is exact and ties are everywhere: -1, 0 and 1."""
    histories = setting.matrix[: min(600, setting.users)]
    g = torch.Generator().manual_seed(0)
    users, items = (torch.randint(-1, 2, (n, setting.latent), generator=g).float() for n in histories.shape)
    exact = (users @ items.T).numpy()
    exact[histories.nonzero()] = -np.inf
    stable = np.argsort(-exact, axis=1, kind="stable")[:, : setting.top]
    best = np.take_along_axis(exact, stable, axis=1)
    users, items = users.to(setting.device), items.to(setting.device)
    for name in PRECISIONS:
        with precision(name):
            ids, scores = lists_by_rank(users, items, histories, setting.top, 100)
            resident = Clicks(histories, setting.device)
            parts = [
                torch.cat(part) for part in zip(*lists_on_device(users, items, resident, setting.top, 256), strict=True)
            ]
        for values, columns in ((scores, ids), (parts[0].cpu().numpy(), parts[1].cpu().numpy())):
            if not (np.array_equal(columns, stable) and np.array_equal(values, best)):
                raise SystemExit(f"The lists are not those of a stable sort ({name}).")


def ranking(setting: Setting) -> Part:
    check_lists(setting)
    g = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(n, setting.latent, generator=g).to(setting.device) for n in (setting.users, setting.items)
    )
    clicks, figures = setting.resident, []
    details: dict[str, Any] = {}
    k, block = setting.top, setting.block
    full, rest = divmod(setting.users, block)
    shapes = ((full, block, setting.latent, setting.items), (1, rest, setting.latent, setting.items))
    for name in PRECISIONS:
        contenders: dict[str, Contender] = {
            "device": within(name, partial(lists_on_device, users, items, clicks, k, block)),
            "host": within(name, partial(lists_by_rank, users, items, setting.matrix, k, block)),
            "usual": within(name, partial(lists_by_rank, users, items, setting.matrix, k, None)),
            "products": Products([shape for shape in shapes if shape[0] and shape[1]], name, setting.device),
        }
        measured = interleaved(contenders, setting.rounds, 1)
        what = f"top {k} of {setting.users:,} users, {name}"
        for way, label in (
            ("device", "no copies"),
            ("host", f"rank, {block:,} users at a time, copies from and to the host count"),
            ("usual", "rank as it is, copies from and to the host count"),
        ):
            seconds: Seconds = {"ours": measured[way], "the products alone": measured["products"]}
            figures.append(against(f"{what}: {label}", seconds, "the products alone", floor=True))
        details[name] = measured
    return figures, details


# --- one user ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def answer(network: Network, history: Any, device: str) -> tuple[Any, Any]:
    """Return the ids and scores of one user's K best on the host, from a one-row CSR on the host."""
    batch = Batch.of(history, device)
    logits = network.logits(batch)
    logits.view(-1).index_fill_(0, batch.columns, -torch.inf)
    values, ids = top_k(logits, K)
    return ids.cpu().numpy()[0], values.cpu().numpy()[0]


@torch.no_grad()
def check_answers(network: Network, histories: list[Any], device: str) -> None:
    """Compare with a stable sort of the same model's scores; items may swap places within 1e-5 of a score only."""
    for history in histories:
        ids, values = answer(network, history, device)
        exact = network.logits(Batch.of(history, device)).cpu().numpy()[0]
        exact[history.indices] = -np.inf
        best = np.sort(exact)[::-1][:K]
        bound = 1e-5 * np.abs(best).max()
        if np.abs(exact[ids] - best).max() > bound or np.abs(values - best).max() > bound or len(set(ids)) != K:
            raise SystemExit("A request is not answered by a stable sort of its scores.")


def clock(call: Callable[[], object]) -> float:
    """Return the seconds of a call that ends with its result on the host."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def one_user(setting: Setting) -> Part:
    figures: list[Figure] = []
    details = {}
    histories = [setting.matrix[[user]] for user in range(setting.requests)]
    for title, make in (("RecVAE", recvae), ("Mult-VAE", mult_vae)):
        network = make(setting)
        check_answers(network, histories[:20], setting.device)
        weights = network.output.weight.detach()
        reading = f"reading the last layer's weights once, {weights.nbytes / 1e6:.0f} MB"
        p50: Seconds = {"ours": [], reading: []}
        p99: list[float] = []
        for number in range(-1, setting.rounds):
            taken: Seconds = {"ours": [], reading: []}
            for history in histories:
                taken["ours"].append(clock(partial(answer, network, history, setting.device)))
                taken[reading].append(clock(lambda weights=weights: weights.sum().item()))
            if number >= 0:
                for name, values in taken.items():
                    p50[name].append(float(np.quantile(values, 0.5)))
                p99.append(float(np.quantile(taken["ours"], 0.99)))
        what = f"{title}, one user, {K} ids, copies from and to the host count, float32"
        figures += [against(f"{what}, p50", p50, reading, floor=True), alone(f"{what}, p99", p99)]
        details[title] = {"p50": p50, "p99": p99}
    return figures, details


# --- all of it ---------------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Setting], Part]] = {
    "waits": waits,
    "batches": batches,
    "mult-vae": train_mult_vae,
    "large-batch": train_large_batch,
    "recvae": train_recvae,
    "ranking": ranking,
    "one-user": one_user,
    "scale": scale,
}


def run(name: str, setting: Setting, failed: dict[str, str]) -> Part:
    """Run a section and print its figures; one that fails is named and leaves the others be."""
    gc.collect()
    gc.freeze()  # what is there now is not looked through again before every measurement
    start = time.perf_counter()
    try:
        figures, details = SECTIONS[name](setting)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a run is too dear to lose to one section
        traceback.print_exc()
        failed[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
        figures, details = [], {}
    gc.collect()
    if setting.on_cuda:
        torch.cuda.empty_cache()
    print(f"\n== {name}: {time.perf_counter() - start:.0f} s")
    print(table(figures), flush=True)
    return figures, details


def main() -> int:
    parser = options(__doc__)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda (with --small: cpu where there is none)"
    )
    parser.add_argument("--only", help=f"some sections, separated by commas, of {', '.join(SECTIONS)}; needs --out")
    arguments = parser.parse_args()
    here = torch.cuda.is_available()
    device = arguments.device or ("cpu" if arguments.small and not here else "cuda")
    if device == "cuda" and not here:
        raise SystemExit("There is no CUDA device here; to try the program anywhere, add --small --device cpu.")
    if device == "cpu" and not arguments.small:
        raise SystemExit("At full size this needs a CUDA device; on a CPU add --small.")
    names = list(SECTIONS) if arguments.only is None else arguments.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if arguments.only is not None and arguments.out is None:
        parser.error("--only is for a part, which must not replace the whole record: name another file with --out")

    start = time.perf_counter()
    setting = Setting(device, max(5, arguments.rounds))
    if arguments.small:
        setting = small(setting)
    about = card(device)
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    limits = ceilings(setting)
    failed: dict[str, str] = {}
    parts = {name: run(name, setting, failed) for name in names}
    versions = ", ".join(f"{name} {value}" for name, value in about.items() if name != "device")
    results = {
        "title": "On a GPU",
        "about": f"One run on one {about['device']} ({versions}): {setting.shape()}, hidden {setting.hidden}, latent"
        f" {setting.latent}, where a line says nothing else. Clicks and weights are on the device before the clock"
        " starts; where copies from or to the host count, the line says so. The reference makes its batches on the host"
        " and copies each. Products run in the precision named; everything else is float32. The reference's epoch is"
        f" put together from {setting.epoch_steps} steps of each kind a round, an epoch of the large catalogue from"
        f" {setting.scale_steps * setting.rounds} steps. The products alone are those after the sparse first layer.",
        "figures": [figure for figures, _ in parts.values() for figure in figures],
        "details": {name: details for name, (_, details) in parts.items()} | {"card": about, "failed": failed},
        "took_seconds": time.perf_counter() - start,
        "ceilings": limits,
    }
    record("gpu", results, arguments)
    print(f"{time.perf_counter() - start:.0f} s in all" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
