"""docs/serving.md: its examples run against a real service, and its names are those of the service."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import checkerboard
from quick_models import quick

from benchmarks.speed.serving.servers import serve, server
from recvae.serving.settings import Settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"<!-- runs: (\w+) -->\n\n```\w+\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = {
    "curl": ["bash", "-e", "-c"],
    "python": [sys.executable, "-c"],
    "javascript": ["node", "--input-type=module", "-e"],
}
IDS = ["2571", "1214", "1240", *(str(item) for item in range(9000, 9057))]
TAGS = ("Action", "Sci-Fi", "Horror")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a service whose catalogue has the page's ids and tags."""
    folder = tmp_path_factory.mktemp("page")
    model = quick("conditional-vae", epochs=1)
    tags = {item: [TAGS[place % 3]] for place, item in enumerate(IDS)}
    titles = [f"Film {item} (1984)" for item in IDS]
    model.fit(checkerboard(users=60, items=len(IDS)), item_ids=IDS, titles=titles, item_tags=tags).save(folder / "run")
    with server(serve(folder / "run"), folder / "log") as (port, _):
        yield port


def test_the_page_has_an_example_of_each_kind():
    assert {kind for kind, _ in EXAMPLES} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), EXAMPLES)
def test_an_example_of_the_page_prints_a_list(kind, code, port):
    command = COMMANDS[kind]
    if shutil.which(command[0]) is None or (kind == "curl" and shutil.which("curl") is None):
        pytest.skip(f"{kind} is not installed")
    code = code.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    done = subprocess.run([*command, code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    if kind == "curl":
        items = json.loads(done.stdout)["items"]
        assert 1 <= len(items) <= 5, done.stdout
        assert "1240" not in [item["item"] for item in items] or '"deny"' not in code
    else:
        assert len(re.findall(r"\b90\d\d\b|\b1240\b", done.stdout)) == 5, done.stdout


def test_limits_on_the_page_are_those_of_the_service():
    defaults = Settings(runs={"films": PAGE})
    found = dict(re.findall(r"^\| `--(max-\w+)` \| ([\d,]+(?: MiB)?)", TEXT, re.MULTILINE))
    assert found.keys() == {"max-k", "max-history", "max-batch", "max-body", "max-queue"}
    for name, value in found.items():
        number = int(value.removesuffix(" MiB").replace(",", "")) << (20 if "MiB" in value else 0)
        assert number == getattr(defaults, name.replace("-", "_")), name
    assert f"{defaults.head_within:g} seconds for the head" in TEXT
    assert f"{defaults.body_within:g} for its body" in TEXT
    assert f"closed after {defaults.keep_alive:g} seconds" in TEXT


def test_series_on_the_page_are_those_of_the_service():
    from recvae.serving.metrics import Metrics

    shown = Metrics().text(0).decode()
    there = set(re.findall(r"^# TYPE (\w+)", shown, re.MULTILINE))
    named = set(re.findall(r"\brecvae_\w+", TEXT))
    assert len(named) > 8
    for name in named:
        assert name in there or re.sub(r"_(bucket|sum|count)$", "", name) in there, name
