"""The tables of docs/performance.md, as lines of Markdown, from the records of the programs of speed."""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness import PEERS, RESULTS, amount, markdown
from benchmarks.speed.serving.verdicts import sentence, table
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
    return [*lines, _run(found, name)]


def load(found: Mapping[str, Any], name: str) -> list[str]:
    """Return the table of recvae serve under load, and the verdicts."""
    if "load" not in found:  # a record from before there was a service
        return ["No run is recorded yet."]
    measured = found["load"]
    lines = [*table(measured["rows"]), "", f"In process, p50: {amount(measured['in_process_p50'], 's')}.", ""]
    versions = ", ".join(f"{package} {number}" for package, number in measured["versions"].items())
    return [*lines, *verdicts(measured), "", _run(found, name).replace("; [", f", {versions}; [")]


def exported(found: Mapping[str, Any], name: str) -> list[str]:
    """Return the table of an export's server beside its run's, the start of both, and the verdicts."""
    rows = table(found["rows"])
    return [*rows, "", *markdown(found["figures"]), "", *verdicts(found), "", _run(found, name)]


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """Return a program's verdicts as a list."""
    return [f"- {sentence(verdict)}" for verdict in found["verdicts"]]


def soak(found: Mapping[str, Any], name: str) -> list[str]:
    """Return the table and the verdicts of the soak."""
    return [*markdown(found["figures"]), "", *verdicts(found), "", _run(found, name)]


def _run(found: Mapping[str, Any], name: str) -> str:
    """Return where and when a program was run."""
    environment = found["environment"]
    usual = machine(read_json(RESULTS / f"{USUAL}.json")["environment"])
    how = [environment["date"][:10], *([machine(environment)] if machine(environment) != usual else ())]
    how += [f"threads {environment['threads']}"] if "threads" in environment else []
    how += [f"{peer} {number}" for peer, number in environment["versions"].items() if peer in PEERS]
    return f"Run: {', '.join(how)}; [record](../benchmarks/results/{name}.json)."


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
