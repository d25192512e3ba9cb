"""``recvae promote``: the comparison, the decision and the swap."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bad_inputs import cut, flip
from conftest import checkerboard
from small_datasets import rehash

import recvae
from data_prep import Dataset
from eval import compare
from recvae.cli.promote import REFUSED
from recvae.errors import WorkError
from recvae.experiments import promote as promotion
from recvae.experiments.promote import put_copy, weigh
from recvae.training.run_folder import forms_of

METRIC = ("--metric", "ndcg@10")


@pytest.fixture(scope="module")
def popularity(tmp_path_factory, dataset) -> Path:
    """A run that is worse than EASE beyond doubt: half of its items are of the other taste."""
    run = tmp_path_factory.mktemp("runs") / "popularity"
    assert recvae.cli.main(["train", str(dataset), "--model", "popularity", "--out", str(run), "--quiet"]) == 0
    return run


@pytest.fixture
def live(tmp_path):
    return tmp_path / "live"


def put(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place))


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_one_line(text: str) -> str:
    """Return text without the line breaks of a terminal, which stand where its width and the paths put them."""
    return " ".join(text.split())


def test_a_first_run_is_promoted(cli, ease, dataset, live):
    answer = cli("promote", ease, live, dataset, *METRIC)
    assert answer.status == 0, answer.err
    assert f"Promoted: there was no run in {live}." in in_one_line(answer.out)
    assert forms_of(live) == forms_of(ease)
    assert cli("info", live, "--verify").status == 0
    assert left(live.parent) == ["live"]


def test_a_better_run_is_promoted(cli, ease, popularity, dataset, live):
    put(popularity, live)
    answer = cli("promote", ease, live, dataset, *METRIC)
    assert answer.status == 0, answer.err
    assert "Promoted: the whole interval is at or above 0." in in_one_line(answer.out)
    assert forms_of(live) == forms_of(ease)
    assert ease.exists()


def test_a_worse_run_is_refused_with_a_figure_and_an_interval(cli, ease, popularity, dataset, live):
    put(ease, live)
    answer = cli("promote", popularity, live, dataset, *METRIC, "--margin", "0.002", "--json")
    assert answer.status == REFUSED == 3
    found = answer.json
    assert found["decision"] == "refused"
    measured = cli("evaluate", ease, dataset, "--metrics", "ndcg@10", "--json").json["models"]["ease"]["metrics"]
    assert found["live"]["metrics"] == measured  # the very figure of evaluate
    mean = {name: found[name]["metrics"]["ndcg@10"]["mean"] for name in ("new", "live")}
    difference = found["difference"]
    assert difference["difference"] == pytest.approx(mean["new"] - mean["live"])
    assert difference["low"] < difference["difference"] < difference["high"] < -0.002
    assert difference["users"] == found["new"]["metrics"]["ndcg@10"]["users"] == 20
    assert forms_of(live) == forms_of(ease)

    text = cli("promote", popularity, live, dataset, *METRIC, "--margin", "0.002")
    assert text.status == REFUSED
    shown = [f"{difference[name]:+.4f}".replace("0.", ".", 1) for name in ("difference", "low", "high")]
    assert f"{shown[0]} [{shown[1]}, {shown[2]}], 95 % interval, paired" in in_one_line(text.out)
    assert f"Refused: the whole interval lies below -0.002. {live} stays as it is." in in_one_line(text.out)
    assert text.err == ""
    assert left(live.parent) == ["live"]


@pytest.mark.parametrize(("above", "status"), [(-1e-9, REFUSED), (1e-9, 0)])
def test_the_margin_is_compared_with_the_upper_end(cli, ease, popularity, dataset, live, above, status):
    put(ease, live)
    data = Dataset.load(dataset)
    high = weigh(popularity, live, data, metric="ndcg@10").difference.high
    answer = cli("promote", popularity, live, dataset, *METRIC, "--margin", repr(-high + above))
    assert answer.status == status
    if not status:
        assert "the interval reaches" in in_one_line(answer.out)
        assert "is not ruled out" in in_one_line(answer.out)
    assert forms_of(live) == forms_of(ease if status else popularity)


def test_a_dry_run_changes_nothing(cli, ease, popularity, dataset, live):
    put(popularity, live)
    answer = cli("promote", ease, live, dataset, *METRIC, "--dry-run", "--keep-previous", live.parent / "previous")
    assert answer.status == 0
    assert "To be promoted: the whole interval is at or above 0. Nothing was changed." in in_one_line(answer.out)
    assert cli("promote", popularity, live, dataset, *METRIC, "--dry-run").status == 0  # the same files
    assert forms_of(live) == forms_of(popularity)
    shutil.rmtree(live)
    put(ease, live)
    assert cli("promote", popularity, live, dataset, *METRIC, "--dry-run", "--json").status == REFUSED
    assert left(live.parent) == ["live"]


def test_the_previous_run_is_kept_and_can_be_put_back(cli, ease, popularity, dataset, live):
    previous = live.parent / "previous"
    put(popularity, live)
    common = (dataset, *METRIC, "--keep-previous", previous)
    answer = cli("promote", ease, live, *common)
    assert f"The earlier run is in {previous}." in in_one_line(answer.out)
    again = cli("promote", ease, live, *common, "--json")  # as a night that goes on after a kill does
    assert (again.status, again.json["decision"], again.json["difference"]) == (0, "unchanged", None)
    assert forms_of(previous) == forms_of(popularity)
    assert cli("promote", previous, live, dataset, "--margin", "1", "--quiet").status == 0
    assert forms_of(live) == forms_of(popularity)
    assert left(live.parent) == ["live", "previous"]


def test_a_link_stays_a_link(cli, ease, popularity, dataset, live):
    put(popularity, live.parent / "of-monday")
    live.symlink_to("of-monday")
    assert cli("promote", ease, live, dataset, *METRIC).status == 0
    assert live.is_symlink()
    assert forms_of(live.parent / "of-monday") == forms_of(ease)


def test_a_blend_and_a_run_that_was_trained_by_epochs_are_copied_whole(cli, recvae_run, ease, dataset, live):
    blend = live.parent / "blend"
    assert cli("blend", recvae_run, ease, dataset, "--metric", "ndcg@5", "--out", blend, "--quiet").status == 0
    for run in (recvae_run, blend):
        assert cli("promote", run, live, dataset, *METRIC, "--margin", "1", "--quiet").status == 0
        files = [path.relative_to(run) for path in sorted(run.rglob("*"))]
        assert files == [path.relative_to(live) for path in sorted(live.rglob("*"))]
        assert all((live / file).is_dir() or (live / file).read_bytes() == (run / file).read_bytes() for file in files)


# Catalogues that differ.


@pytest.fixture
def yesterday(tmp_path):
    """EASE of an earlier day: without the last six items, with two that are gone now, in another order."""
    known = [*range(33, -1, -1), 40, 41]
    clicks = checkerboard(users=200, items=42, seed=3)[:, known]
    run = tmp_path / "yesterday"
    recvae.EASE(device="cpu").fit(clicks, item_ids=[f"{item:03}" for item in known]).save(run)
    return run


def plain_ndcg(model, data, k):
    """The ndcg of each test user, user by user and id by id."""
    ours, values = set(data.item_ids), []
    for row in range(data.test_in.shape[0]):
        history = [data.item_ids[item] for item in data.test_in[[row]].indices]
        wanted = {data.item_ids[item] for item in data.test_out[[row]].indices}
        allowed = [item for item in model.items.ids if item in ours]
        [listed], _ = model.recommend_ids([history], k, allow=allowed, skip_unknown=True)
        gains = 1 / np.log2(np.arange(2, k + 2))
        hits = [place for place, item in enumerate(listed) if item in wanted]
        values.append(gains[hits].sum() / gains[: min(k, len(wanted))].sum() if wanted else np.nan)
    return np.array(values)


def test_items_are_matched_by_their_ids(ease, yesterday, dataset):
    data = Dataset.load(dataset)
    weighing = weigh(ease, yesterday, data, metric="ndcg@10")
    expected = {run: plain_ndcg(recvae.load(run), data, 10) for run in (ease, yesterday)}
    for measured in (weighing.new, weighing.live):
        np.testing.assert_allclose(measured.evaluation.per_user["ndcg@10"], expected[measured.folder], rtol=1e-12)
    assert weighing.difference == compare(
        *(part.evaluation.per_user["ndcg@10"] for part in (weighing.new, weighing.live))
    )

    new_items = [column for column, item in enumerate(data.item_ids) if int(item) > 33]
    assert weighing.live.unknown == {
        "items": 6,
        "history_clicks": int(data.test_in[:, new_items].nnz),
        "held_out_clicks": int(data.test_out[:, new_items].nnz),
    }
    assert min(weighing.live.unknown.values()) > 0
    assert weighing.live.left_out_items == 2
    assert weighing.new.unknown == {"items": 0, "history_clicks": 0, "held_out_clicks": 0}
    assert (weighing.new.same_data, weighing.live.same_data) == (True, False)


def test_the_output_counts_items_that_one_side_does_not_know(cli, ease, yesterday, dataset):
    answer = cli("promote", ease, yesterday, dataset, *METRIC)
    assert answer.status == 0, answer.err
    found = weigh(ease, yesterday, Dataset.load(dataset), metric="ndcg@10")
    assert found.live.unknown["items"] == 0  # it is in the place by now
    assert f"6 items to {yesterday}: " in in_one_line(answer.out)
    assert "held-out clicks on them missed" in in_one_line(answer.out)
    assert f"2 items of {yesterday} not in the dataset" in in_one_line(answer.out)


def test_a_new_run_of_other_data_needs_a_word(cli, ease, yesterday, dataset, live):
    put(ease, live)
    refused = cli("promote", yesterday, live, dataset, *METRIC)
    assert refused.status == 2
    assert f"{yesterday} was trained on other data than {dataset} holds" in refused.err
    assert "add --other-data" in refused.err
    answer = cli("promote", yesterday, live, dataset, *METRIC, "--other-data", "--margin", "1", "--json")
    assert answer.status == 0
    assert answer.json["new"]["unknown"]["items"] == 6


def test_a_split_that_draws_users_anew_is_doubted(cli, clicks, ease, dataset, live, tmp_path):
    """LIVE was trained on other users of a strong split: it may have seen clicks that are held out now."""
    other = tmp_path / "other"
    columns = ("--user-column", "user", "--item-column", "item")
    assert cli("prepare", clicks, *columns, "--held-out-users", 30, "--out", other, "--quiet").status == 0
    assert cli("train", other, "--model", "popularity", "--out", live, "--quiet").status == 0
    answer = cli("promote", ease, live, dataset, *METRIC)
    assert answer.status == 0
    assert f"Warning: {live} was trained on other clicks, and a strong split holds out others" in answer.err


# Bad input.


def damaged(run: Path, place: Path, change) -> Path:
    change(put(run, place))
    return place


def of_strangers(place: Path) -> Path:
    recvae.Popularity().fit(checkerboard(), item_ids=[f"book {n}" for n in range(40)]).save(place)
    return place


def no_held_out(dataset: Path, place: Path) -> Path:
    put(dataset, place)
    for part, one in (("indptr", lambda array: np.minimum(array, 1)), ("indices", lambda array: array[:1])):
        file = place / f"test_out.{part}.npy"
        np.save(file, one(np.load(file)))
    counts = json.loads((place / "manifest.json").read_text())["counts"]
    counts["clicks"]["test_out"] = 1
    rehash(place, counts=counts)
    return place


CASES = {
    "the same folder": (lambda p, new, data: [new, new, data], "are one folder"),
    "the same folder by a link": (lambda p, new, data: [linked(p / "link", new), new, data], "are one folder"),
    "LIVE in NEW": (lambda p, new, data: [new, new / "live", data], "one of them is in the other"),
    "LIVE in the dataset": (lambda p, new, data: [new, data / "live", data], "one of them is in the other"),
    "LIVE is kept as LIVE": (lambda p, new, data: [new, p / "a", data, "--keep-previous", p / "a"], "are one folder"),
    "LIVE is a file": (lambda p, new, data: [new, Path(__file__), data], "test_cli_promote.py is a file"),
    "LIVE is a dataset": (lambda p, new, data: [new, put(data, p / "x"), data], "x has no run.json, so it is not"),
    "LIVE is damaged": (
        lambda p, new, data: [
            new,
            damaged(new, p / "x", lambda run: flip(run / "model.safetensors")),
            data,
            "--margin=0",
        ],
        "x/model.safetensors was altered",
    ),
    "LIVE is cut": (
        lambda p, new, data: [new, damaged(new, p / "x", lambda run: cut(run / "run.json")), data],
        "x/run.json is damaged",
    ),
    "LIVE has no weights": (
        lambda p, new, data: [new, damaged(new, p / "x", lambda run: (run / "model.safetensors").unlink()), data],
        "x/model.safetensors is missing",
    ),
    "NEW is damaged": (
        lambda p, new, data: [damaged(new, p / "x", lambda run: flip(run / "items.csv")), p / "live", data],
        "x/items.csv was altered",
    ),
    "NEW does not exist": (lambda p, new, data: [p / "x", p / "live", data], "x does not exist"),
    "NEW is a dataset": (lambda p, new, data: [data, p / "live", put(data, p / "x")], "is a dataset folder, not a run"),
    "no dataset": (lambda p, new, data: [new, p / "live", new.parent], "recvae prepare"),
    "no common item": (lambda p, new, data: [new, of_strangers(p / "x"), data], "knows none of the 40 items"),
    "no common item, NEW": (
        lambda p, new, data: [of_strangers(p / "x"), p / "live", data, "--other-data"],
        "x (unnamed data) knows none of the 40 items",
    ),
    "one user": (lambda p, new, data: [new, p / "live", no_held_out(data, p / "x"), "--other-data"], "fewer than two"),
    "a metric of the list set": (lambda p, new, data: [new, p / "l", data, "--metric", "gini@5"], "one metric with"),
    "two metrics": (lambda p, new, data: [new, p / "l", data, "--metric", "ndcg@5,recall@5"], "one metric with"),
    "an unknown metric": (lambda p, new, data: [new, p / "l", data, "--metric", "ndgc@5"], "Did you mean 'ndcg'?"),
    "a negative margin": (lambda p, new, data: [new, p / "l", data, "--margin", "-0.1"], "from 0 to 1, and not -0.1"),
    "a margin that is no number": (lambda p, new, data: [new, p / "l", data, "--margin", "nan"], "and not nan"),
}


def linked(link: Path, to: Path) -> Path:
    link.symlink_to(to)
    return link


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence_and_changes_nothing(cli, ease, dataset, tmp_path, name):
    made, named = CASES[name]
    arguments = made(tmp_path, ease, dataset)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    answer = cli("promote", *arguments)
    assert answer.status == 2, answer.err
    assert named in answer.err
    assert answer.err.startswith("Error: ")
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_that_is_changed_meanwhile_is_not_promoted(cli, ease, popularity, dataset, live, monkeypatch):
    """NEW is replaced after it was measured."""
    new = put(ease, live.parent / "new")
    put(popularity, live)

    def changed(run, place, forms):
        recvae.load(popularity).save(new, overwrite=True)
        put_copy(run, place, forms)

    monkeypatch.setattr(promotion, "put_copy", changed)
    answer = cli("promote", new, live, dataset, *METRIC)
    assert answer.status == 1
    assert (
        answer.err == f"Error: {new} was changed while it was read. Run the command again when nobody writes there.\n"
    )
    assert forms_of(live) == forms_of(popularity)
    assert left(live.parent) == ["live", "new"]


def test_a_file_that_goes_missing_meanwhile(ease, popularity, live, monkeypatch):
    put(popularity, live)

    def gone(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(shutil, "copyfile", gone)
    with pytest.raises(WorkError, match="was changed while it was read"):
        put_copy(ease, live, forms_of(ease))
    assert forms_of(live) == forms_of(popularity)


HOLD = """
import sys
from pathlib import Path
from recvae.files import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_two_promotions_at_once(cli, ease, popularity, dataset, live):
    put(popularity, live)
    command = [sys.executable, "-c", HOLD, str(live)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as other:
        assert other.stdout.readline() == "held\n"
        answer = cli("promote", ease, live, dataset, *METRIC)
        other.communicate("\n", timeout=60)
    assert answer.status == 1
    assert f"{live} is being written by process {other.pid}" in answer.err
    assert forms_of(live) == forms_of(popularity)
    assert cli("promote", ease, live, dataset, *METRIC).status == 0
