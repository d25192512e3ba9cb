"""``recvae blend``: the verb that joins trained models."""

import pytest
from conftest import checkerboard

import recvae


@pytest.fixture(scope="module")
def popularity(tmp_path_factory, dataset):
    run = tmp_path_factory.mktemp("runs") / "popularity"
    assert recvae.cli.main(["train", str(dataset), "--model", "popularity", "--out", str(run), "--quiet"]) == 0
    return run


def test_blend_end_to_end(cli, dataset, ease, popularity, tmp_path):
    out = tmp_path / "blend"
    answer = cli("blend", ease, popularity, dataset, "--metric", "ndcg@5", "--out", out)
    assert answer.status == 0, answer.err
    for said in ("EASE + Popularity on clicks", "validation ndcg@5", "sets of weights tried", f"recvae evaluate {out}"):
        assert said in answer.out
    document = cli("blend", ease, popularity, dataset, "--metric", "ndcg@5", "--out", out, "--overwrite", "--json").json
    assert [part["model"] for part in document["components"]] == ["ease", "popularity"]
    assert document["metrics"]["ndcg@5"] >= max(part["validation"] for part in document["components"])
    assert document["tried"] >= 25
    model = recvae.load(out)
    assert list(model.weights) == [part["weight"] for part in document["components"]]
    assert model.dataset["validation_metric"] == "ndcg@5"

    measured = cli("evaluate", out, dataset, "--split", "validation", "--metrics", "ndcg@5", "--json").json
    assert measured["models"]["blend"]["metrics"]["ndcg@5"]["mean"] == document["metrics"]["ndcg@5"]
    alone = cli("evaluate", ease, dataset, "--split", "validation", "--metrics", "ndcg@5", "--json").json
    assert alone["models"]["ease"]["metrics"]["ndcg@5"]["mean"] == document["components"][0]["validation"]

    assert "Toy Story 2" in cli("recommend", out, "--item", "Toy Story (1995)", "-k", "39").out
    about = cli("info", out, "--verify").out
    assert "Blend, trained on clicks: 40 items" in about
    assert "components=['ease', 'popularity'] weights=[" in about


def test_given_weights_are_taken(cli, dataset, ease, popularity, tmp_path):
    common = ("blend", ease, popularity, dataset, "--json")
    document = cli(*common, "--out", tmp_path / "a", "--weights", "3,1").json
    assert [part["weight"] for part in document["components"]] == [0.75, 0.25]
    assert document["tried"] == 0
    alone = cli("blend", ease, popularity, dataset, "--out", tmp_path / "b", "--weights", "1,0", "--quiet")
    assert alone.status == 0
    assert alone.out.count("ease") == 2  # the path and the name: only the table
    similar = cli("similar", tmp_path / "b", "--item", "000", "--json").json
    expected = cli("similar", ease, "--item", "000", "--json").json
    assert similar["similar"] == expected["similar"]
    refused = cli("similar", tmp_path / "a", "--item", "000")
    assert refused.status == 2
    assert "The blend cannot say which items are alike. Popularity knows" in refused.err


def test_refitted_runs_are_blended_with_weights_found_before(cli, dataset, ease, popularity, tmp_path):
    assert cli("train", dataset, "--refit", ease, "--out", tmp_path / "all", "--quiet").status == 0
    common = ("blend", tmp_path / "all", popularity, dataset, "--out", tmp_path / "blend")
    refused = cli(*common)
    assert refused.status == 2
    assert f"{tmp_path / 'all'} was refitted on the validation clicks" in refused.err
    document = cli(*common, "--weights", "0.8,0.2", "--json").json
    assert document["metrics"] == {}
    assert [part["validation"] for part in document["components"]] == [None, None]
    assert recvae.load(tmp_path / "blend").weights == (0.8, 0.2)
    again = cli("blend", tmp_path / "blend", popularity, dataset, "--out", tmp_path / "again")  # it has seen them too
    assert again.status == 2
    assert f"{tmp_path / 'blend'} was refitted on the validation clicks" in again.err
    assert cli("evaluate", tmp_path / "blend", dataset, "--split", "validation").status == 2
    assert cli("info", tmp_path / "blend").status == 0


def test_the_verb_refuses_what_it_cannot_blend(cli, dataset, ease, popularity, tmp_path):
    out = ("--out", tmp_path / "blend")
    other = tmp_path / "other"
    recvae.Popularity().fit(checkerboard()).save(other)
    for arguments, said in (
        (["blend", ease, dataset, *out], "A blend needs at least two runs"),
        (["blend", ease, other, dataset, *out], f"{other} was trained on another catalogue"),
        (["blend", ease, popularity, ease, *out], "is a run folder (a trained model), not a dataset folder"),
        (["blend", ease, dataset, dataset, *out], "is a dataset folder, not a run folder"),
        (
            ["blend", ease, popularity, dataset, "--out", ease, "--overwrite"],
            f"{ease} is read, so it cannot be written too",
        ),
        (["blend", ease, popularity, dataset, "--out", other], f"{other} exists already"),
        (["blend", ease, popularity, dataset, *out, "--weights", "1,x"], "--weights needs a number for each run"),
        (["blend", ease, popularity, dataset, *out, "--weights", "1,1,1"], "has 2 models, and was given 3 weights"),
        (["blend", ease, popularity, dataset, *out, "--metric", "coverage@5"], "Validation needs one metric"),
        (["train", dataset, "--model", "blend", *out], "A blend is not trained itself"),
        (["tune", dataset, "--model", "blend", *out], "blend"),
    ):
        answer = cli(*arguments)
        assert answer.status == 2, arguments
        assert said in answer.err
        assert answer.err.count("\n") == 1
    assert not (tmp_path / "blend").exists()
