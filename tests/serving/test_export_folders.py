"""An export that cannot be used is refused in one sentence, also for a swap under way, and a good one is taken."""

import json
import shutil

import onnx
import pytest
from conftest import checkerboard
from hand_made_exports import graph, linear, registered, scoring, seal, write_export
from onnx import TensorProto, helper
from serving_models import IDS, TAGS, TITLES, assert_same, plainly
from serving_process import here

from recvae.baselines.ease import EASE
from recvae.errors import FormatError, InputError, RecvaeError
from recvae.serving import onnx_runtime
from recvae.serving.model import load_model
from recvae.serving.reload import RUN, identity, read_served, version_of
from recvae.training import run_folder
from recvae.training.export_folder import GRAPH, MANIFEST, is_export

ASKED = {"history": IDS[:6:2], "k": 5}
NAMED = {"item_ids": IDS, "titles": TITLES, "item_tags": TAGS}
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def models():
    with registered():
        yield [linear(60, seed, **NAMED) for seed in (1, 2)]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def facts(folder, **values):
    record = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**record, **values}, indent=2) + "\n")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def another_graph(model, folder):
    """Put a graph of somebody else's in the place of ours, with a manifest that lists it."""
    nodes = [helper.make_node("Relu", ["pixels"], ["classes"])]
    made = graph(nodes, [("pixels", FLOAT, ["n"])], [("classes", FLOAT, ["n"])], {})
    onnx.save(made, folder / GRAPH)
    seal(folder, model)


def another_type(model, folder):
    ports = [(port.name, port.type.tensor_type.elem_type, ["x"]) for port in scoring(model).graph.input]
    ports[3] = ("values", TensorProto.DOUBLE, ["x"])
    nodes = [helper.make_node("Identity", ["values"], ["scores"])]
    onnx.save(graph(nodes, ports, [("scores", TensorProto.DOUBLE, ["x"])], {}), folder / GRAPH)
    seal(folder, model)


def without_lists(model, folder):
    made = scoring(model)
    del made.graph.output[0]
    onnx.save(made, folder / GRAPH)
    seal(folder, model)


def other_items(model, folder):
    onnx.save(scoring(linear(7)), folder / GRAPH)
    seal(folder, model)


def no_graph(model, folder):
    (folder / GRAPH).write_bytes(b"no protocol buffer")
    seal(folder, model)


def fewer_items(model, folder):
    lines = (folder / "items.csv").read_text().splitlines(keepends=True)
    (folder / "items.csv").write_text("".join(lines[:-1]))
    seal(folder, model)


def unlisted(model, folder):
    record = json.loads((folder / MANIFEST).read_text())
    from recvae.training.export_folder import Manifest, write_manifest

    del record["files"][GRAPH]
    (folder / GRAPH).unlink()
    known = {key: value for key, value in record.items() if key not in ("format", "format_version", "digest")}
    write_manifest(folder, Manifest.model_validate(known))


DAMAGE = {
    "one byte of the weights": (lambda model, f: flip(f / "model.bin"), "model.bin was altered"),
    "one byte of the graph": (lambda model, f: flip(f / GRAPH), "model.onnx was altered"),
    "one byte of the items": (lambda model, f: flip(f / "items.csv"), "items.csv was altered"),
    "one byte of the manifest": (lambda model, f: flip(f / MANIFEST), MANIFEST),
    "the manifest cut": (lambda model, f: cut(f / MANIFEST), "is damaged or not JSON"),
    "a fact altered": (lambda model, f: facts(f, n_items=61), "does not match its own digest"),
    "format 2": (lambda model, f: facts(f, format_version=2), "has format version 2; this recvae reads 1"),
    "another format": (lambda model, f: facts(f, format="parquet"), "does not describe a recvae export"),
    "weights missing": (lambda model, f: (f / "model.bin").unlink(), "model.bin is missing"),
    "tags missing": (lambda model, f: (f / "item_tags.csv").unlink(), "item_tags.csv is missing"),
    "graph not listed": (unlisted, "does not list it"),
    "somebody else's graph": (another_graph, "is another program's graph: it"),
    "another type": (another_type, "it has an input 'values' of another type"),
    "no lists": (without_lists, "lacks the output 'top_items'"),
    "another catalogue": (other_items, "it has 7 items, not 60"),
    "no graph": (no_graph, "cannot be loaded by onnxruntime"),
    "fewer items": (fewer_items, "items.csv has 59 items, and the model 60"),
    "a file beside": (lambda model, f: (f / "notes.txt").write_text("?"), "notes.txt was added"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_export_is_refused_and_the_old_one_serves_on(models, tmp_path, damage):
    spoil, said = DAMAGE[damage]
    live, new = write_export(tmp_path / "live", models[0]), write_export(tmp_path / "new", models[1])
    spoil(models[1], new)
    with pytest.raises(RecvaeError) as error:
        onnx_runtime.load(new)
    assert said in str(error.value)
    assert isinstance(error.value, FormatError)
    assert "\n" not in str(error.value)
    assert str(new) in str(error.value)
    with here({"films": live}, watch=False) as service, service.client() as client:
        before = client.post("/v1/recommend", json=ASKED).json()
        shutil.rmtree(live)
        new.rename(live)
        service.service.shelf.look()
        assert client.post("/v1/recommend", json=ASKED).json() == before
        [event] = service.events("swap refused")
        assert said in event["reason"]
        shutil.rmtree(live)
        write_export(live, models[1])
        service.service.shelf.look()
        after = client.post("/v1/recommend", json=ASKED).json()
        assert_same(after, plainly(models[1], ASKED))
        assert after["model"] == {"name": "films", "version": version_of(live)}


def test_a_run_and_an_export_take_each_others_place(models, tmp_path):
    live = tmp_path / "live"
    run = EASE(device="cpu").fit(checkerboard(users=120, items=60), **NAMED)
    run.save(live)
    with here({"films": live}, watch=False) as service, service.client() as client:
        assert client.get("/v1/model").json()["title"] == "EASE"
        for place in ("export", "run"):
            shutil.rmtree(live)
            if place == "run":
                run.save(live)
            else:
                write_export(live, models[1])
            assert is_export(live) == (place == "export")
            service.service.shelf.look()
            assert service.events("swap refused") == []
            assert client.get("/v1/model").json()["version"] == version_of(live)
            expected = plainly(run if place == "run" else models[1], ASKED)
            assert_same(client.post("/v1/recommend", json=ASKED).json(), expected)


def test_versions_and_identities(models, tmp_path):
    one, other = write_export(tmp_path / "one", models[0]), write_export(tmp_path / "other", models[0])
    assert version_of(one) == version_of(other)
    assert len(version_of(one)) == 12
    assert onnx_runtime.load(one).version == read_served("a", one, "cpu").version == version_of(one)
    assert identity(one) != identity(other)
    assert identity(tmp_path / "nowhere") == (None, None, None, None)
    assert RUN == run_folder.RUN


def test_folders_that_are_no_export(models, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="nowhere does not exist"):
        onnx_runtime.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match=f"empty is not an export: it has no {MANIFEST}"):
        onnx_runtime.load(tmp_path / "empty")
    with pytest.raises(FormatError, match=r"empty is not a run folder"):
        load_model(tmp_path / "empty")
    export = write_export(tmp_path / "out", models[0])
    with pytest.raises(InputError, match="is an export, which runs on the CPU: leave --device cuda out"):
        load_model(export, "cuda")
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr("recvae.serving.model.find_spec", lambda name: None if name == "torch" else real(name))
    with pytest.raises(InputError, match=r"is no export, and a run folder is loaded by torch, which is not installed"):
        load_model(tmp_path / "empty")
    monkeypatch.setattr("recvae.arguments.find_spec", lambda name: None if name == "onnxruntime" else real(name))
    with pytest.raises(InputError, match=r"needs onnxruntime, which is not installed.*pip install 'recvae\[export\]'"):
        load_model(export)
