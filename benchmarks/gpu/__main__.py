"""Everything that needs a CUDA device, in one run of a few minutes: training, ranking, one user, scale, ceilings.

    python -m benchmarks.gpu --record                   on a CUDA device, with nothing but torch, numpy and scipy
    python -m benchmarks.gpu --small --device cpu       tiny shapes anywhere: tries the program, measures nothing

Every figure names its precision. Clicks and weights are on the device before the clock starts; figures that count
copies from or to the host say so.
"""

import gc
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import PRECISIONS, Products, Setting, card, ceilings, small, within
from benchmarks.gpu.steps import scale, waits
from benchmarks.gpu.training import Section, batches, mult_vae, recvae, train_large_batch, train_mult_vae, train_recvae
from benchmarks.harness import Contender, Figure, Seconds, against, interleaved, parser, table, write_record
from benchmarks.speed.lists import Lists, check_answers, check_lists, ranked, requests
from recvae.batches import Batch, Clicks
from recvae.models.base import Network
from recvae.products import precision, product
from recvae.ranking import top_k

K = 10  # items for one user


def lists_on_device(users: Tensor, items: Tensor, clicks: Clicks, k: int, block: int) -> list[tuple[Tensor, Tensor]]:
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
    histories = setting.matrix[: min(600, setting.users)]
    resident = Clicks(histories, setting.device)

    def on_device(users: Tensor, items: Tensor) -> Lists:
        there = users.to(setting.device), items.to(setting.device)
        parts = lists_on_device(*there, resident, setting.top, 256)
        scores, ids = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        return ids, scores

    def on_host(users: Tensor, items: Tensor) -> Lists:
        return ranked(users.to(setting.device), items.to(setting.device), histories, setting.top, 100)

    for name in PRECISIONS:
        with precision(name):
            check_lists(on_device, histories, setting.latent, setting.top)
            check_lists(on_host, histories, setting.latent, setting.top)


def ranking(setting: Setting) -> Section:
    check_both(setting)
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
            "host": within(name, partial(ranked, users, items, setting.matrix, k, block)),
            "usual": within(name, partial(ranked, users, items, setting.matrix, k)),
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
    for title, make in (("RecVAE", recvae), ("Mult-VAE", mult_vae)):
        network: Network = make(setting)
        ask = partial(answer, network, device=setting.device)
        check_answers(
            ask, lambda h, net=network: net.logits(Batch.of(h, setting.device)).cpu().numpy()[0], histories[:20], K
        )
        weights = network.output.weight.detach()
        reading = f"reading the last layer's weights once, {weights.nbytes / 1e6:.0f} MB"
        read = reading, lambda weights=weights: weights.sum().item()
        what = f"{title}, one user, {K} ids, copies from and to the host count, float32"
        found, details[title] = requests(what, ask, read, histories, setting.rounds)
        figures += found
    return figures, details


SECTIONS: dict[str, Callable[[Setting], Section]] = {
    "waits": waits,
    "batches": batches,
    "mult-vae": train_mult_vae,
    "large-batch": train_large_batch,
    "recvae": train_recvae,
    "ranking": ranking,
    "one-user": one_user,
    "scale": scale,
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
    if setting.on_cuda:
        torch.cuda.empty_cache()
    print(f"\n== {name}: {time.perf_counter() - start:.0f} s")
    print(table(figures), flush=True)
    return figures, details


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5, help="measured rounds, at least 5 (default: %(default)s)")
    options.add_argument("--small", action="store_true", help="tiny shapes: tries the program, measures nothing")
    options.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda (with --small: cpu where there is none)"
    )
    options.add_argument("--only", help=f"some sections, separated by commas, of {', '.join(SECTIONS)}")
    arguments = options.parse_args()
    here = torch.cuda.is_available()
    device = arguments.device or ("cpu" if arguments.small and not here else "cuda")
    if device == "cuda" and not here:
        raise SystemExit("There is no CUDA device here; to try the program anywhere, add --small --device cpu.")
    if device == "cpu" and not arguments.small:
        raise SystemExit("At full size this needs a CUDA device; on a CPU add --small.")
    names = list(SECTIONS) if arguments.only is None else arguments.only.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        options.error(f"there is no {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if arguments.record and (arguments.only is not None or arguments.small):
        options.error("--record is for the whole program at full size: name another file with --out")

    start = time.perf_counter()
    setting = Setting(device, max(5, arguments.rounds))
    if arguments.small:
        setting = small(setting)
    about = card(device)
    print("; ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    limits = ceilings(setting)
    failed: dict[str, str] = {}
    parts = {name: run(name, setting, failed) for name in names}
    results = {
        "figures": [figure for figures, _ in parts.values() for figure in figures],
        "details": {name: details for name, (_, details) in parts.items()} | {"card": about, "failed": failed},
        "took_seconds": time.perf_counter() - start,
        "ceilings": limits,
    }
    write_record("gpu", results, arguments)
    print(f"{time.perf_counter() - start:.0f} s in all" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
