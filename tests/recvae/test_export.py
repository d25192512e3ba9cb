"""Exports that recvae writes: what onnxruntime computes from them is what the model computes with torch."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outside_models import CoClick
from quick_models import quick
from scipy.sparse import csr_array, vstack

from recvae import Blend, load
from recvae.cli import main
from recvae.errors import FormatError, InputError, WorkError
from recvae.models.mult import MultVAE
from recvae.nn.ragged import TracedBatch
from recvae.registry import MODELS
from recvae.serving.export import comparison
from recvae.serving.export.comparison import TOLERANCE, Graph, difference, no_rules, ragged
from recvae.serving.export.folder import export, export_run
from recvae.testing import random_clicks
from recvae.training.export_folder import (
    ENCODER,
    GRAPH,
    ITEM_VECTORS,
    MANIFEST,
    SIMILAR,
    WEIGHTS,
    check,
    is_export,
    read_manifest,
    version_of,
)

N_ITEMS = 90
CLICKS = random_clicks(120, N_ITEMS, 0.15, seed=2)
HISTORIES = vstack([csr_array((2, N_ITEMS), dtype=np.float32), random_clicks(20, N_ITEMS, 0.2, seed=5)]).tocsr()
TAGS = {str(i): ("even",) if i % 2 == 0 else ("odd", "late") if i > 40 else ("odd",) for i in range(N_ITEMS)}
VERSION = "0" * 12
CASES = (*MODELS, "vaeac of ratings", "weighted mult-vae", "blend", "blend of three")
WITH_VECTORS = {*CASES} - {"ease", "edlae", "item-knn", "popularity", "recvae-edlae", "blend", "blend of three"}


def ratings(clicks, seed=0):
    rated = clicks.copy()
    rated.data = np.random.default_rng(seed).integers(1, 6, len(rated.data)).astype(np.float32)
    return rated


def fitted(name):
    """A small model of each kind, of a blend, and of those that read the values of a history."""
    if name == "vaeac of ratings":
        return quick("vaeac", ratings=True, likelihood="gaussian").fit(ratings(CLICKS))
    if name == "weighted mult-vae":
        return quick("mult-vae", weighted=True).fit(ratings(CLICKS))
    if name == "conditional-vae":
        attributes = [{"gender": "FM"[row % 2]} for row in range(CLICKS.shape[0])]
        model = quick(name, hidden=(64,), user_attributes=("gender",)).fit(
            CLICKS, item_tags=TAGS, user_attributes=attributes
        )
        for parameter in (model.network.of_input, model.network.of_items):  # one epoch moves them little
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))
        return model
    if name == "blend":
        return Blend([quick("recvae").fit(CLICKS), quick("ease").fit(CLICKS)], CLICKS, (0.7, 0.3))
    if name == "blend of three":
        parts = [quick(part).fit(CLICKS) for part in ("item-knn", "mult-dae", "popularity")]
        return Blend(parts, CLICKS, (0.5, 0.5, 0.0))
    return quick(name).fit(CLICKS, item_tags=TAGS)


def asked(model):
    """Histories, two of them empty, and conditions of some users where the model has any."""
    histories = ratings(HISTORIES) if model.of_ratings else HISTORIES
    names = len(model.condition_names)
    return histories, random_clicks(histories.shape[0], names, 0.4, seed=1) if names else None


def batch_of(feed, n_items):
    """The batch that the graph makes of its inputs."""
    return TracedBatch.ragged(**{name: torch.from_numpy(value) for name, value in feed.items()}, n_items=n_items)


# --- without the exporter: what is traced is the model ---------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_is_traced_is_the_model(name):
    model = fitted(name)
    histories, conditions = asked(model)
    expected = comparison.scores_of(model, histories, conditions)
    batch = batch_of(ragged(histories, conditions), N_ITEMS)
    with torch.no_grad():
        assert difference(model.scores_of(batch).numpy(), expected) <= TOLERANCE
        if name in WITH_VECTORS:
            vectors = model.vectors()
            products = vectors.of_users(batch) @ vectors.items.T
            assert difference(products.numpy(), expected) <= TOLERANCE
        else:
            with pytest.raises(InputError, match="no inner products"):
                model.vectors().of_users(batch)
        if name != "popularity":
            items = torch.tensor([3, 0, 88, 3])
            every = torch.arange(N_ITEMS).expand(4, -1)
            assert difference(model.alike_of(items).numpy(), model.similarity_among(every)(items).numpy()) <= TOLERANCE


def test_a_history_without_values_is_of_ones_for_a_model_of_clicks():
    model = fitted("mult-vae")
    expected = comparison.scores_of(model, HISTORIES)
    batch = batch_of(ragged(ratings(HISTORIES)), N_ITEMS)
    with torch.no_grad():
        assert difference(model.scores_of(batch).numpy(), expected) <= TOLERANCE


def test_folding_in_by_conjugate_gradients_is_exact_to_the_bound_of_its_theorem():
    for alpha, factors in ((0.05, 8), (1.0, 8), (40.0, 24)):
        model = quick("implicit-als", alpha=alpha, factors=factors, regularization=0.5).fit(CLICKS)
        batch = batch_of(ragged(HISTORIES), N_ITEMS)
        Y = model.factors.double()
        penalty = 0.5 * torch.eye(factors, dtype=torch.float64)
        found = model._solved(batch)
        for user in range(HISTORIES.shape[0]):
            own = Y[HISTORIES[[user]].indices.astype(np.int64)]
            exact = torch.linalg.solve(Y.T @ Y + (alpha - 1) * own.T @ own + penalty, alpha * own.sum(0))
            torch.testing.assert_close(found[user].double(), exact, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match="would need"):
        quick("implicit-als", alpha=1e6).fit(CLICKS).scores_of(batch)


def test_a_model_without_a_graph_says_so():
    class Own(MultVAE):
        name = "own"

        def scores(self, histories, *conditions):
            return super().scores(histories, *conditions) ** 2

    with pytest.MonkeyPatch.context() as patch:
        for kind in (CoClick, Own):
            patch.setitem(MODELS, kind.name, MODELS["ease"])
            with pytest.raises(InputError, match="has no method scores_of"):
                kind(device="cpu").scores_of(batch_of(ragged(HISTORIES), N_ITEMS))


# --- one export, in all its parts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recvae_model():
    return quick("recvae", hidden=72).fit(
        CLICKS, item_tags={f"i{item}": tags for item, tags in TAGS.items()}, item_ids=[f"i{n}" for n in range(N_ITEMS)]
    )


@pytest.fixture(scope="module")
def run(recvae_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "recvae"
    recvae_model.save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "recvae"
    steps = []
    report = export_run(run, folder, vectors=True, on_step=steps.append)
    assert report.difference <= TOLERANCE
    assert report.manifest == read_manifest(folder)
    assert len(steps) == 4
    return folder


@pytest.fixture(scope="module")
def graph(exported):
    return Graph(exported / GRAPH)


def test_an_export_holds_what_its_manifest_says(recvae_model, exported):
    check(exported)
    manifest = read_manifest(exported)
    assert (manifest.model, manifest.title, manifest.n_items) == ("recvae", "RecVAE", N_ITEMS)
    assert {GRAPH, WEIGHTS, SIMILAR, ENCODER, *ITEM_VECTORS, "items.csv", "item_tags.csv"} == manifest.files.keys()
    assert manifest.vectors.dimensions == 9
    array, table = np.load(exported / ITEM_VECTORS[0]), pq.read_table(exported / ITEM_VECTORS[1])
    assert table["item_id"].to_pylist() == list(recvae_model.items.ids)
    np.testing.assert_array_equal(array, np.array(table["vector"].to_pylist(), dtype=np.float32))


def test_an_export_names_no_place_of_this_machine(exported):
    for name in (GRAPH, SIMILAR, ENCODER):
        content = (exported / name).read_bytes()
        assert b"/site-packages/" not in content
        assert b".py" not in content


@st.composite
def histories_of_users(draw):
    rows = draw(st.lists(st.sets(st.integers(0, N_ITEMS - 1), max_size=12), min_size=1, max_size=7))
    lengths = [len(row) for row in rows]
    columns = np.array([column for row in rows for column in sorted(row)], dtype=np.int64)
    return csr_array((np.ones(len(columns), np.float32), columns, np.cumsum([0, *lengths])), shape=(len(rows), N_ITEMS))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), histories=histories_of_users())
def test_lists_of_any_histories_under_any_rules_are_the_models(data, histories, recvae_model, graph):
    n_users, k = histories.shape[0], data.draw(st.integers(1, N_ITEMS), "k")
    exclude_seen = data.draw(st.booleans(), "exclude_seen")
    masks = data.draw(st.sampled_from(sorted({1, n_users})), "masks")
    share = data.draw(st.sampled_from([0.0, 0.3, 1.0]), "share of items denied")
    hidden = np.random.default_rng(data.draw(st.integers(0, 9), "seed")).random((masks, N_ITEMS)) < share
    feed = {**ragged(histories), **no_rules(N_ITEMS, k, exclude_seen=exclude_seen), "hidden": hidden}
    items, best, scores = graph.run(["top_items", "top_scores", "scores"], feed)
    assert difference(scores, comparison.scores_of(recvae_model, histories)) <= TOLERANCE
    expected = np.where(hidden, -np.inf, scores)  # of the graph's own scores, so that equal ones are equal
    if exclude_seen:
        expected[histories.toarray() > 0] = -np.inf
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items, order)
    np.testing.assert_array_equal(best, np.take_along_axis(expected, order, 1))


def test_users_vectors_and_items_vectors_make_the_scores(exported, recvae_model):
    users = Graph(exported / ENCODER).run(["vectors"], ragged(HISTORIES))[0]
    items = np.load(exported / ITEM_VECTORS[0])
    assert difference(users @ items.T, comparison.scores_of(recvae_model, HISTORIES)) <= TOLERANCE


def test_one_changed_byte_of_any_file_is_found(exported, tmp_path):
    for name in (*read_manifest(exported).files, MANIFEST):
        folder = tmp_path / name.replace(".", "-")
        shutil.copytree(exported, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            check(folder)


def test_missing_and_added_files_of_an_export_are_found(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "export")
    (folder / "more.bin").write_bytes(b"")
    with pytest.raises(FormatError, match="was added"):
        check(folder)
    (folder / "more.bin").unlink()
    (folder / WEIGHTS).unlink()
    with pytest.raises(FormatError, match="is missing"):
        check(folder)


@pytest.mark.parametrize("verb", ["export", "evaluate", "blend", "diagnose"])
def test_a_command_that_needs_a_run_says_so_of_an_export(verb, exported, dataset, tmp_path, capsys):
    more = [] if verb == "export" else [str(dataset)]
    runs = [str(exported)] * (2 if verb == "blend" else 1)
    out = ["--out", str(tmp_path / "out")] if verb in ("export", "blend") else []
    assert main([verb, *runs, *more, *out]) == 2
    assert "is an export, which 'recvae serve'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["prepare", "train", "export"])
def test_an_output_is_not_written_over_a_folder_of_another_kind(verb, exported, run, dataset, clicks, tmp_path, capsys):
    given = {"prepare": clicks, "train": dataset, "export": run}[verb]
    folder = shutil.copytree(run if verb == "export" else exported, tmp_path / "kept")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    more = ["--model", "popularity"] if verb == "train" else []
    assert main([verb, str(given), "--out", str(folder), "--overwrite", *more]) == 2
    assert "so it is not replaced" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_graph_that_is_not_the_model_is_not_written(recvae_model, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "scores_of", lambda model, histories, conditions: histories.toarray() + 1)
    with pytest.raises(WorkError, match="is not the model"):
        export(recvae_model, VERSION, tmp_path / "export")
    assert not list(tmp_path.iterdir())


# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name != "recvae"])
def test_the_graphs_of_every_model_are_the_model(name, tmp_path):
    model = fitted(name)
    report = export(model, VERSION, tmp_path / "export", vectors=name in WITH_VECTORS)
    assert report.difference <= TOLERANCE
    histories, conditions = asked(model)
    feed, graph = ragged(histories, conditions), Graph(tmp_path / "export" / GRAPH)
    everything = no_rules(N_ITEMS, N_ITEMS, exclude_seen=True)
    items, best, scores = graph.run(["top_items", "top_scores", "scores"], {**feed, **everything})
    expected = comparison.scores_of(model, histories, conditions)
    assert difference(scores, expected) <= TOLERANCE
    seen = histories.toarray() > 0
    np.testing.assert_array_equal((best == -np.inf).sum(1), seen.sum(1))
    listed = np.take_along_axis(np.where(seen, -np.inf, expected), items, 1)
    assert (np.diff(np.where(listed == -np.inf, -1e30, listed)) <= 2 * TOLERANCE * np.abs(expected).max()).all()
    denied = {**everything, "hidden": np.ones((1, N_ITEMS), dtype=bool)}
    assert (graph.run(["top_scores"], {**feed, **denied})[0] == -np.inf).all()


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "bf16"])
@pytest.mark.parametrize("name", ["recvae", "ease", "recvae-edlae", "conditional-vae", "vamp-vae", "blend"])
def test_smaller_weights_change_scores_a_little(name, weights, tmp_path):
    wide = {"recvae": {"hidden": 128}, "recvae-edlae": {"hidden": 128}, "vamp-vae": {"hidden": 64}}
    model = quick(name, **wide[name]).fit(CLICKS) if name in wide else fitted(name)
    report = export(model, VERSION, tmp_path / "export", weights=weights)
    assert report.manifest.weights == weights
    assert 0 < report.difference < 0.05
    plain = export(model, VERSION, tmp_path / "plain")
    sizes = [facts.manifest.files[WEIGHTS].bytes for facts in (report, plain)]
    assert sizes[0] < (0.75 if name in ("conditional-vae", "vamp-vae", "blend") else 0.6) * sizes[1]


@pytest.mark.slow
def test_the_same_run_makes_the_same_export(run, exported, tmp_path):
    export_run(run, tmp_path / "again", vectors=True)
    assert version_of(tmp_path / "again") == version_of(exported)


@pytest.mark.slow
def test_export_by_the_command_line(run, tmp_path, capsys):
    out = tmp_path / "export"
    assert main(["export", str(run), "--out", str(out), "--weights", "int8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == version_of(out)
    assert told["manifest"]["weights"] == "int8"
    assert is_export(out)
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", str(run), "--out", str(out), "--overwrite", "--vectors"]) == 0
    assert "exactly" in capsys.readouterr().out
    assert load(run).n_items == read_manifest(out).n_items


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_a_model_without_tables_has_none_to_shrink(weights, tmp_path):
    with pytest.raises(InputError, match="no table of weights"):
        export(fitted("popularity"), VERSION, tmp_path / "export", weights=weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_method_that_cannot_be_traced_is_reported(tmp_path):
    class Reader(type(fitted("popularity"))):
        name = "popularity"

        def scores_of(self, batch):
            return super().scores_of(batch) if int(batch.lengths.sum()) > 2 else self.counts[None]

    with pytest.raises(WorkError, match="cannot trace"):
        export(Reader(device="cpu").fit(CLICKS), VERSION, tmp_path / "export")
