"""The Dockerfile's steps in a fresh virtual environment, and a service of an export from it: small, quick and right."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from hand_made_exports import linear, registered, write_export
from serving_models import TAG_NAMES, assert_same, plainly, random_question

ROOT = Path(__file__).parent.parent
N_ITEMS = 3200  # whose weights are 41 MB
MOST_ON_DISK = 250e6  # bytes
READY_WITHIN = 2.0  # seconds
LARGE = ("torch", "scipy", "pandas", "pyarrow", "implicit", "safetensors")
PATIENCE = 300.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the Dockerfile is for Linux")


def steps():
    """The Dockerfile's instructions: words in capitals, and what follows."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_dockerfile_is_slim_non_root_and_checks_health():
    found = dict(steps())
    assert "-slim" in found["FROM"]
    assert found["USER"] != "root"
    assert "/health/ready" in found["HEALTHCHECK"]
    assert found["EXPOSE"] in found["ENTRYPOINT"]
    assert json.loads(found["CMD"])[0] == "/export"
    copied = {source for word, rest in steps() if word == "COPY" for source in rest.split()[:-1]}
    assert copied == {name for name in copied if (ROOT / name).exists()}
    assert {"recvae", "data_prep", "eval", "configs", "setup.cfg"} <= copied


def test_every_requirement_is_a_dependency_with_a_lower_bound():
    """requirements-serve.txt names packages of setup.cfg, so that constraints.txt pins them; none of them is large."""
    config = (ROOT / "setup.cfg").read_text()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    lines = (ROOT / "requirements-serve.txt").read_text().splitlines()
    names = {re.match(r"[a-z-]+", line)[0] for line in lines if not line.startswith("#")}
    assert names <= pinned
    assert names.isdisjoint(LARGE)
    assert {name for name in names if not re.search(rf"^    {name} >= ", config, re.MULTILINE)} == set()


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment made by the Dockerfile's COPY and RUN pip steps."""
    place = tmp_path_factory.mktemp("docker")
    work, home = place / "work", place / "environment"
    work.mkdir()
    subprocess.run([sys.executable, "-m", "venv", home], check=True, timeout=PATIENCE)
    inside = {**os.environ, "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(home)}
    inside.pop("PYTHONPATH", None)
    for word, rest in steps():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(ROOT / source, work / target, folder=len(sources) > 1)
        elif word == "RUN" and rest.startswith("pip "):
            done = subprocess.run(
                shlex.split(rest), cwd=work, env=inside, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if done.returncode and re.search(r"No matching distribution|Connection|Max retries|resolve", done.stderr):
                pytest.skip(f"no package index is reachable: {done.stderr.strip().splitlines()[-1]}")
            assert done.returncode == 0, done.stderr[-2000:]
    return home


def copy(source, target, *, folder):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target / source.name if folder or target.is_dir() else target)


@pytest.fixture(scope="module")
def model():
    with registered():
        ids = [f"{n:03}" for n in range(N_ITEMS)]
        tags = {item: [TAG_NAMES[n % 3]] for n, item in enumerate(ids)} | {"000": ["Old"]}
        yield linear(N_ITEMS, 4, item_ids=ids, titles=[f"Film {n} ({1950 + n % 70})" for n in range(N_ITEMS)],
                     item_tags=tags)  # fmt: skip


def tags_of(items):
    return {item: list(tags) for item, tags in zip(items.ids, items.tags, strict=True)}


@pytest.mark.slow
def test_the_environment_is_small_and_holds_nothing_large(environment):
    size = sum(path.lstat().st_size for path in environment.rglob("*"))
    assert size <= MOST_ON_DISK
    [site] = environment.glob("lib/python*/site-packages")
    assert not [name for name in LARGE if (site / name).exists()]


@pytest.mark.slow
def test_an_export_is_served_from_it(environment, model, tmp_path):
    from recvae.training.export_folder import GRAPH

    export = write_export(tmp_path / "films", model, similar=False)
    weights = sum((export / name).stat().st_size for name in (GRAPH, "model.bin"))
    service, port, took = started(environment, export)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            rng = np.random.default_rng(3)
            for _ in range(40):
                asked = random_question(model, rng)
                asked.pop("diversity", None)
                answer = client.post("/v1/recommend", json=asked)
                assert answer.status_code == 200, answer.text
                assert_same(answer.json(), plainly(model, asked), tags_of(model.items))
            assert client.get("/health/ready").status_code == 200
            assert client.get("/v1/model").json()["items"] == N_ITEMS
        told = Path(f"/proc/{service.pid}/status").read_text() if sys.platform == "linux" else "VmRSS: 0"
        resident = 1024 * int(re.search(r"VmRSS:\s+(\d+)", told)[1])
        loaded = Path(f"/proc/{service.pid}/maps").read_text() if sys.platform == "linux" else ""
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(PATIENCE) == 0
        service.stderr.close()
    assert not [name for name in LARGE if f"/{name}/" in loaded]
    assert resident <= 1.6 * weights + 120e6
    assert took <= READY_WITHIN * (1 if os.environ.get("RECVAE_QUIET") else 5)  # others may use the cores


def started(environment, export):
    """Start the service with the installed program; return it, its port and the seconds until it was ready."""
    command = [environment / "bin" / "recvae", "serve", export, "--port", "0"]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    began = time.monotonic()
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=clean,
                               cwd=export.parent)  # fmt: skip
    said = []
    for line in service.stderr:
        said.append(line)
        if found := re.search(r"Serving at http://127\.0\.0\.1:(\d+)/", line):
            return service, int(found[1]), time.monotonic() - began
    raise AssertionError("".join(said))


@pytest.mark.slow
def test_what_is_missing_there_is_said_in_a_sentence(environment, model, tmp_path):
    export = write_export(tmp_path / "films", model)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "clicks.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    for asked, said in (
        (["recommend", "run", "--item", "1"], "a run folder is loaded by torch, which is not installed"),
        (["recommend", export, "--histories", "clicks.parquet"], "needs pyarrow, which is not installed"),
        (["recommend", export, "--item", "001", "--out", "lists.parquet"], "needs pyarrow, which is not installed"),
    ):
        done = subprocess.run([environment / "bin" / "recvae", *asked], cwd=tmp_path, capture_output=True, text=True,
                              timeout=PATIENCE, check=False, env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
        assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
