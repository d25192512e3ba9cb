"""recommend, similar, info and serve of an export: as of its run, and where little is installed."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_made_exports import linear, registered, write_export

from data_prep import column_names, read_ids, read_interactions, readers
from recvae.cli import output, plain_lists
from recvae.errors import DataError, InputError
from recvae.serving import onnx_runtime

IDS = [f"{n:03}" for n in range(40)]
TITLES = [f'Film {n}, "the {n}th" ({1960 + n})' for n in range(40)]
TAGS = {item: [["Comedy", "Drama"][n % 2]] for n, item in enumerate(IDS)}
SLIM = ("torch", "scipy", "pandas", "pyarrow", "implicit", "safetensors", "pooch", "platformdirs", "matplotlib", "onnx")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    with registered():
        model = linear(40, 3, item_ids=IDS, titles=TITLES, item_tags=TAGS)
        yield write_export(tmp_path_factory.mktemp("exports") / "films", model)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("histories") / "clicks.csv"
    rows = [(f"u{n}", IDS[i]) for n in range(9) for i in rng.choice(40, 6)]
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, item in [*rows, ("u1", "nope")]))
    return path


def test_items_on_the_command_line(cli, export):
    answer = cli("recommend", export, "--item", "film 3,", "--item", "007", "-k", 3, "--json")
    listed = answer.json["users"][0]["items"]
    model = onnx_runtime.load(export)
    ids, scores = model.answer(model_query(model, [3, 7], 3))
    assert [one["item_id"] for one in listed] == [IDS[i] for i in ids[0]]
    assert [one["score"] for one in listed] == pytest.approx(scores[0].tolist(), abs=1e-6)
    assert cli("recommend", export, "--item", "film 3,", "--allow-tag", "Drama", "-k", 4).status == 0
    similar = cli("similar", export, "--item", "003", "-k", 2, "--deny-tag", "Drama", "--json").json["similar"]
    assert [one["item_id"] for one in similar] == [
        IDS[i] for i in model.similar_items([3], 2, deny_tags=["Drama"]).ids[0]
    ]
    assert "leave --device cuda out" in cli("similar", export, "--item", "003", "--device", "cuda").err


def model_query(model, columns, k):
    from recvae.matrices import Rows
    from recvae.queries import Query

    return Query(Rows.of_lists([columns], model.n_items), k)


def test_info(cli, export, tmp_path):
    told = cli("info", export, "--verify", "--json").json
    assert (told["kind"], told["export"]["title"], told["export"]["n_items"]) == ("export", "Linear", 40)
    assert told["verified"]
    said = cli("info", export).out
    assert "Linear, exported, trained on toy: 40 items" in said
    assert "ndcg@100 25.00 %" in said or "ndcg@100" in said
    flipped = tmp_path / "flipped"
    import shutil

    shutil.copytree(export, flipped)
    content = bytearray((flipped / "model.bin").read_bytes())
    content[99] ^= 4
    (flipped / "model.bin").write_bytes(content)
    assert cli("info", flipped).status == 0
    refused = cli("info", flipped, "--verify")
    assert (refused.status, "model.bin was altered" in refused.err) == (2, True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("reasons", [0, 2])
def test_files_without_arrow_hold_the_same_lists(cli, export, histories, tmp_path, monkeypatch, suffix, reasons):
    def rows(name):
        out = tmp_path / f"{name}{suffix}"
        asked = ("--histories", histories, "--out", out, "-k", 5, "--reasons", reasons, "--threads", 1)
        answer = cli("recommend", export, *asked)
        assert answer.status == 0, answer.err
        assert "nope" in answer.err
        text = out.read_text()
        if suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines()]
        return [*csv.DictReader(text.splitlines())]

    expected = rows("arrow")
    without_arrow(monkeypatch)
    found = rows("plain")
    assert len(found) == len(expected) > 40
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if "score" in key and value and key != "rank_by_score":
                assert float(value) == pytest.approx(float(other[key]), rel=1e-6)
            elif key == "reasons":
                assert [reason["item_id"] for reason in value] == [reason["item_id"] for reason in other[key]]
                assert [[*reason] for reason in value] == [[*reason] for reason in other[key]]
            else:
                assert value == other[key]


def without_arrow(monkeypatch):
    for module in (readers, output):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr("recvae.arguments.find_spec", lambda name: None if name == "pyarrow" else real(name))


FILES = {
    "plain": "user,item,rating\n1,01,3\n2,02,4.5\n1,02,1e1\n",
    "blank lines and quotes": 'user,item,rating\n\n1,"a,""b",3\n\n2,"two\nlines",4\n',
    "tabs": "user\titem\trating\n1\t2\t3\n",
    "colons": "user::item::rating\n1::2::3\n1::4::3\n",
    "floats as ids": "user,item,rating\n1.0,5.0,3\n2.0,6.0,2\n",
    "windows": "user,item,rating\r\n1,2,3\r\n",
    "mark": "\ufeffuser,item,rating\n1,2,3\n",
}
WRONG = {
    "too few fields": "user,item,rating\n1,2,3\n1,2\n",
    "too many fields": "user,item,rating\n1,2,3,4\n",
    "no id": "user,item,rating\n1,2,3\n,2,3\n",
    "no number": "user,item,rating\n1,2,3\n1,2,much\n",
    "no rows": "user,item,rating\n",
    "no such column": "user,thing,rating\n1,2,3\n",
    "column twice": "user,item,item,rating\n1,2,3,4\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_text_read_without_arrow_is_the_same(tmp_path, monkeypatch, text):
    path = tmp_path / "clicks.csv"
    path.write_text(text, encoding="utf-8", newline="")
    expected, names = read_interactions(path, "user", "item", rating_column="rating"), column_names(path)
    without_arrow(monkeypatch)
    found = read_interactions(path, "user", "item", rating_column="rating")
    assert column_names(path) == names
    for name in ("user", "item", "user_ids", "item_ids", "rating"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    assert found.label == expected.label


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG)
def test_text_that_cannot_be_used_is_refused_without_arrow_in_the_same_words(tmp_path, monkeypatch, text):
    path = tmp_path / "clicks.csv"
    path.write_text(text)
    said = []
    for _ in range(2):
        with pytest.raises(DataError) as error:
            read_interactions(path, "user", "item", rating_column="rating")
        said.append(str(error.value))
        without_arrow(monkeypatch)
    assert said[0] == said[1]


def test_a_rating_without_end_is_refused_without_arrow(tmp_path, monkeypatch):
    (tmp_path / "clicks.csv").write_text("user,item,rating\n1,2,inf\n")
    without_arrow(monkeypatch)
    with pytest.raises(DataError, match=r"row 1 .*the rating 'inf' in column 'rating' is not a number"):
        read_interactions(tmp_path / "clicks.csv", "user", "item", rating_column="rating")


def test_parquet_needs_arrow(tmp_path, monkeypatch):
    path = tmp_path / "clicks.parquet"
    pq.write_table(pa.table({"user": ["1"], "item": ["2"]}), path)
    without_arrow(monkeypatch)
    for read in (lambda: read_interactions(path, "user", "item"), lambda: read_ids(path, "item")):
        with pytest.raises(InputError, match=r"a Parquet file, needs pyarrow, which is not installed.*save it as CSV"):
            read()
    with pytest.raises(InputError, match=r"Writing out.parquet needs pyarrow.*name a \.csv or \.jsonl"):
        plain_lists.write_plain(Path("out.parquet"), None, [], 0)


PROGRAM = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {hidden} else found(name, *more)
from recvae.cli import main
status = main(sys.argv[1:])
loaded = [name for name in {hidden} if name in sys.modules]
assert not loaded, loaded
sys.exit(status)
"""


@pytest.mark.parametrize(
    "asked",
    [
        ("info", "EXPORT", "--verify"),
        ("similar", "EXPORT", "--item", "003"),
        ("recommend", "EXPORT", "--item", "003", "--most-per-tag", "1", "--diversity", "0.5", "--reasons", "1"),
        ("recommend", "EXPORT", "--histories", "FILE", "--deny", "IDS", "--allow-each", "FILE", "--json"),
    ],
)
def test_nothing_large_is_imported_for_an_export(export, histories, tmp_path, asked):
    """In a process from which the large packages are hidden, and which says so if one is imported nevertheless."""
    (tmp_path / "ids.txt").write_text("004\n005\n")
    places = {"EXPORT": str(export), "FILE": str(histories), "IDS": str(tmp_path / "ids.txt")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hidden=repr(SLIM)), *(places.get(word, word) for word in asked)],
        capture_output=True, text=True, timeout=120, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
