"""Everything that needs a CUDA device, in one run of a few minutes: training, ranking, one user, scale, ceilings.

python -m benchmarks.gpu --record                   on a CUDA device, with nothing but torch, numpy and scipy
python -m benchmarks.gpu --small --device cpu       tiny shapes anywhere: tries the program, measures nothing
"""

import gc
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import training
from benchmarks.gpu.device import PRECISIONS, SMALL, Products, Section, Setting, ceilings, within
from benchmarks.harness import Contender, Figure, Seconds, against, interleaved, markdown, parser, write_record
from benchmarks.speed.lists import Lists, check_lists, ranked, requests
from recvae.nn.batches import Batch, Clicks
from recvae.nn.kernels import precision, product
from recvae.nn.network import Network
from recvae.ranking.selection import top_k

K = 10  # items for one user


def on_device(users: Tensor, items: Tensor, clicks: Clicks, k: int, block: int) -> list[tuple[Tensor, Tensor]]:
    """Return the k best of every user, block by block of users; everything stays on the device."""
    lists, done = [], 0
    for batch in clicks.in_order(block):
        scores = product(users[done : done + len(batch)], items)
        scores.view(-1).index_fill_(0, batch.cells, -torch.inf)
        lists.append(top_k(scores, k))
        done += len(batch)
    return lists


def check_both(setting: Setting) -> None:
    """Compare both ways to rank with a stable sort, in each precision."""
    histories, k, to = setting.matrix[: min(600, setting.users)], setting.top, setting.device
    resident = Clicks(histories, to)

    def there(users: Tensor, items: Tensor) -> Lists:
        parts = zip(*on_device(users.to(to), items.to(to), resident, k, 256), strict=True)
        scores, ids = (torch.cat(part).cpu().numpy() for part in parts)
        return ids, scores

    for name in PRECISIONS:
        with precision(name):
            check_lists(there, histories, setting.latent, k)
            check_lists(lambda u, i: ranked(u.to(to), i.to(to), histories, k, 100), histories, setting.latent, k)


def ranking(setting: Setting) -> Section:
    check_both(setting)
    g = torch.Generator().manual_seed(0)
    users, items = (
        torch.randn(n, setting.latent, generator=g).to(setting.device) for n in (setting.users, setting.items)
    )
    clicks, k, block, floor = setting.resident, setting.top, setting.block, "the products alone"
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    full, rest = divmod(setting.users, block)
    shapes = [(n, m, setting.latent, setting.items) for n, m in ((full, block), (1, rest)) if n and m]
    ways: dict[str, Contender] = {"no copies": partial(on_device, users, items, clicks, k, block)}
    for how, size in ((f"rank, {block:,} users at a time", block), ("rank as it is", None)):
        ways[f"{how}, copies from and to the host count"] = partial(ranked, users, items, setting.matrix, k, size)
    for name in PRECISIONS:
        contenders = {way: within(name, run) for way, run in ways.items()}
        measured = interleaved({**contenders, floor: Products(shapes, name, setting.device)}, setting.rounds)
        for way in ways:
            seconds: Seconds = {"ours": measured[way], floor: measured[floor]}
            figures.append(against(f"top {k} of {setting.users:,} users, {name}: {way}", seconds, floor, floor=True))
        details[name] = measured
    return figures, details


@torch.no_grad()
def answer(network: Network, history: Any, device: str) -> tuple[Any, Any]:
    """Return the ids and scores of one user's K best on the host, from a one-row CSR on the host."""
    batch = Batch.of(history, device)
    logits = network.logits(batch)
    logits.view(-1).index_fill_(0, batch.columns, -torch.inf)
    values, ids = top_k(logits, K)
    return ids.cpu().numpy()[0], values.cpu().numpy()[0]


@torch.no_grad()
def one_user(setting: Setting) -> Section:
    figures: list[Figure] = []
    details = {}
    histories = [setting.matrix[[user]] for user in range(setting.requests)]
    for title, make in (("RecVAE", training.recvae), ("Mult-VAE", training.mult_vae)):
        network: Network = make(setting)

        def scores(history: Any, network: Network = network) -> Any:
            return network.logits(Batch.of(history, setting.device)).cpu().numpy()[0]

        ask = partial(answer, network, device=setting.device)
        weights = network.output.weight.detach()
        what = f"{title}, one user, {K} ids, copies from and to the host count, float32"
        found, details[title] = requests(what, ask, scores, weights, histories, setting.rounds)
        figures += found
    return figures, details


SECTIONS: dict[str, Callable[[Setting], Section]] = {
    "mult-vae": training.train_mult_vae,
    "large-batch": training.train_large_batch,
    "recvae": training.train_recvae,
    "ranking": ranking,
    "one-user": one_user,
    "scale": training.scale,
}


def run(name: str, setting: Setting, failed: dict[str, str]) -> Section:
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
    if setting.device == "cuda":
        torch.cuda.empty_cache()
    print(f"\n== {name}: {time.perf_counter() - start:.0f} s", *markdown(figures), sep="\n", flush=True)
    return figures, details


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="measured rounds, at least 5 (default: %(default)s)")
    options.add_argument("--small", action="store_true", help="tiny shapes: tries the program, measures nothing")
    options.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda; with --small, what there is")
    options.add_argument("--only", help=f"some sections, separated by commas, of {', '.join(SECTIONS)}")
    arguments = options.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() or not arguments.small else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; to try the program anywhere, add --small --device cpu.")
    if device == "cpu" and not arguments.small:
        raise SystemExit("At full size this needs a CUDA device; on a CPU add --small.")
    names = list(SECTIONS) if arguments.only is None else arguments.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if arguments.record and (arguments.only is not None or arguments.small):
        options.error("--record is for the whole program at full size: name another file with --out")

    start = time.perf_counter()
    setting = Setting(device, 1, **SMALL) if arguments.small else Setting(device, max(5, arguments.rounds))
    limits, failed = ceilings(setting), dict[str, str]()
    parts = {name: run(name, setting, failed) for name in names}
    results = {
        "figures": [figure for figures, _ in parts.values() for figure in figures],
        "details": {name: details for name, (_, details) in parts.items()} | {"failed": failed},
        "ceilings": limits,
    }
    write_record("gpu", results, arguments)
    print(f"{time.perf_counter() - start:.0f} s in all" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
