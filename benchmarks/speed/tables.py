"""The tables of docs/performance.md, as lines of Markdown, from the records of the programs of speed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import PEERS, RESULTS, amount, markdown
from recvae.files import read_json

USUAL = "training"  # the record whose machine the page names once
CEILINGS = {
    "copy_gb_per_s": ("copying", "GB/s read and written"),
    "product_gflops": ("the fastest matrix product", "GFLOP/s"),
    "launch_us": ("a kernel launch", "µs"),
    "fill_gb_per_s": ("filling", "GB/s written"),
    "float32_product_tflops": ("a float32 product", "TFLOP/s"),
    "tf32_product_tflops": ("a TF32 product", "TFLOP/s"),
    "bf16_product_tflops": ("a bfloat16 product", "TFLOP/s"),
}


def section(found: Mapping[str, Any], name: str) -> list[str]:
    """Return one program's table, what the machine can do at best, and where and when it was run."""
    lines = [*markdown(found["figures"]), ""]
    if found.get("ceilings"):
        limits = (f"{CEILINGS[key][0]} {amount(value, CEILINGS[key][1])}" for key, value in found["ceilings"].items())
        lines += [f"In the same run: {'; '.join(limits)}.", ""]
    environment = found["environment"]
    usual = machine(read_json(RESULTS / f"{USUAL}.json")["environment"])
    how = [environment["date"][:10], *([machine(environment)] if machine(environment) != usual else ())]
    how += [f"threads {environment['threads']}"] if "threads" in environment else []
    how += [f"{peer} {number}" for peer, number in environment["versions"].items() if peer in PEERS]
    return [*lines, f"Run: {', '.join(how)}; [record](../benchmarks/results/{name}.json)."]


def usual_machine(found: Mapping[str, Any], name: str) -> list[str]:
    """Return the machine and the versions of most records."""
    return [f"Unless a section says otherwise, it was run on {machine(found['environment'])}."]


def machine(environment: Mapping[str, Any]) -> str:
    """Return device and versions in a line."""
    device = environment.get("device", "cpu")
    cpu = f"{environment['cpu']} ({environment['cores']} cores, {environment['memory_gb']} GB)"
    versions = {"Python": environment["python"], **environment["versions"]}
    named = [f"{name} {number}" for name, number in versions.items() if name not in ("recvae", *PEERS)]
    return f"{cpu if device == 'cpu' else f'{device}, {cpu}'} with {', '.join(named)}"
