"""Run folders whose files agree with each other and are of no use: a sentence, and never memory, time or a crash."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import checkerboard
from sealing import reseal
from small_models import BOARD, model
from torch.utils._python_dispatch import TorchDispatchMode

import recvae
from recvae.errors import FormatError, InputError
from recvae.models.blend import Blend
from recvae.registry import MODELS
from recvae.training import run_folder
from recvae.training.tensors import Expected, wrong_form, wrong_values

QUICK = {"hidden": 6, "latent": 4, "epochs": 1, "batch_size": 30, "pseudo_inputs": 5, "factors": 3}


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run folder of each registered model and of a blend."""
    folder = tmp_path_factory.mktemp("runs")
    for name, entry in MODELS.items():
        kind = entry.model_class()
        known = {**vars(kind.model_defaults), **vars(kind.train_defaults or object)}
        options = {key: value for key, value in QUICK.items() if key in known}
        if isinstance(known.get("hidden"), tuple):
            options["hidden"] = (6,)
        kind(seed=1, device="cpu", **options).fit(BOARD).save(folder / name)
    parts = [recvae.load(folder / name, "cpu") for name in ("ease", "item-knn")]
    Blend(parts, BOARD, [0.25, 0.75]).save(folder / "blend")
    return folder


def craft(source, folder, change, facts=None):
    """Copy a run folder with other tensors, under right digests and a right seal."""
    shutil.copytree(source, folder)
    tensors, told = run_folder.read_weights(folder)
    change(tensors)
    run_folder.write_weights(folder, tensors, {**told, **(facts or {})})
    reseal(folder)
    return folder


def not_finite(name, value):
    def change(tensors):
        tensors[name].view(-1)[0] = value

    return change


KINDS = [*MODELS, "blend"]


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_of_every_model_is_checked(name, runs, tmp_path):
    tensors, _ = run_folder.read_weights(runs / name)
    recvae.load(craft(runs / name, tmp_path / "same", lambda t: None), "cpu")
    changes, seen = {}, set()
    for key, tensor in tensors.items():
        if (tensor.dtype, tensor.ndim) in seen and name not in KINDS[-6:]:  # a network's are all checked alike
            continue
        seen.add((tensor.dtype, tensor.ndim))
        changes[f"{key} missing"] = lambda t, key=key: t.pop(key)
        changes[f"{key} longer"] = lambda t, key=key: t.update({key: torch.cat([t[key].reshape(-1)] * 2)})
        changes[f"{key} flat"] = lambda t, key=key: t.update({key: t[key][None]})
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        changes[f"{key} of another type"] = lambda t, key=key, other=other: t.update({key: t[key].to(other)})
        if tensor.is_floating_point() and tensor.numel():
            changes[f"{key} not a number"] = not_finite(key, torch.nan)
            changes[f"{key} infinite"] = not_finite(key, torch.inf)
    changes["more"] = lambda t: t.update(more=torch.zeros(2))
    for place, (what, change) in enumerate(changes.items()):
        folder = craft(runs / name, tmp_path / f"run{place}", change)
        with pytest.raises(FormatError, match=r"model\.safetensors (is not of|cannot be used)") as error:
            recvae.load(folder, "cpu")
        assert "\n" not in str(error.value), what


ITEM_KNN = {
    "neighbours out of range": lambda t: t["neighbours"].fill_(10**6),
    "neighbours below 0": lambda t: t["neighbours"].fill_(-1),
    "offsets beyond the neighbours": lambda t: t["offsets"][1:].fill_(10**9),
    "offsets that fall": lambda t: t["offsets"][3].fill_(0),
    "offsets from elsewhere": lambda t: t["offsets"][0].fill_(2),
    "offsets below 0": lambda t: t["offsets"][1].fill_(-5),
    "fewer neighbours": lambda t: t.update(neighbours=t["neighbours"][:3], similarities=t["similarities"][:3]),
}


PROGRAM = """
import sys
import numpy as np
import recvae
from recvae.errors import FormatError
from scipy.sparse import csr_array
for folder in sys.argv[1:]:
    try:
        recvae.load(folder, "cpu").recommend(csr_array(np.ones((3, 40))), k=40, exclude_seen=False)
        print("accepted")
    except FormatError as error:
        print(error)
"""


def test_item_knn_with_neighbours_that_there_are_not(runs, tmp_path):
    """In a process of its own, since memory used to be read and written where there is none."""
    folders = [craft(runs / "item-knn", tmp_path / str(n), change) for n, change in enumerate(ITEM_KNN.values())]
    command = [sys.executable, "-c", PROGRAM, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(zip(ITEM_KNN, done.stdout.splitlines(), strict=True))
    assert all("model.safetensors" in sentence for sentence in said.values()), said


def test_values_out_of_range_are_named():
    expected = {"ends": Expected((4,), torch.int64, offsets="n"), "rows": Expected(("n",), low=0, high=9)}
    good = {"ends": torch.tensor([0, 1, 1, 3]), "rows": torch.tensor([0.0, 9.0, 2.0])}
    forms = {name: (tuple(value.shape), value.dtype) for name, value in good.items()}
    assert wrong_form(expected, forms) == wrong_values(expected, good) == ""
    assert wrong_form(expected, {**forms, "rows": ((3, 1), torch.float32)}) == (
        "has a tensor 'rows' of 3 x 1 (float32) where the model has n (float32)"
    )
    assert wrong_values(expected, {**good, "rows": torch.tensor([0.0, 9.5, 2.0])}) == (
        "has values in 'rows' from 0 to 9.5, outside 0 to 9"
    )
    assert "not the ends of rows" in wrong_values(expected, {**good, "ends": torch.tensor([0, 2, 1, 3])})
    empty = {"ends": Expected((1,), torch.int64, offsets="n"), "rows": Expected(("n",))}
    assert wrong_values(empty, {"ends": torch.tensor([0]), "rows": torch.zeros(0)}) == ""


def with_options(source, folder, **options):
    """Copy a run folder with other options in run.json, under a right seal."""
    shutil.copytree(source, folder)
    record = json.loads((folder / "run.json").read_text())
    record["config"]["model"] |= options
    (folder / "run.json").write_text(json.dumps(record))
    reseal(folder)
    return folder


class MostMemory(TorchDispatchMode):
    """Counts operations, and records the number of elements of the largest tensor that has memory."""

    elements, operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, torch.Tensor) and not value.is_meta:
                self.elements = max(self.elements, value.numel())
        return out


BOMBS = [
    ("recvae", {"latent": 10**7}),
    ("recvae", {"latent": 65_536, "hidden": 65_536}),
    ("recvae", {"layers": 100_000}),
    ("recvae", {"layers": 100, "hidden": 60_000}),
    ("mult-vae", {"hidden": [60_000] * 99}),
    ("mult-vae", {"hidden": [1] * 1_000_000}),
    ("vamp-vae", {"pseudo_inputs": 60_000, "hidden": 60_000}),
    ("vaeac", {"latent": 60_000}),
    ("implicit-als", {"factors": 60_000}),
]


@pytest.mark.parametrize(("name", "options"), BOMBS)
def test_options_that_would_take_memory_or_time_are_refused_before_they_do(name, options, runs, tmp_path):
    folder = with_options(runs / name, tmp_path / "run", **options)
    with MostMemory() as made, pytest.raises(FormatError, match=r"run\.json|model\.safetensors") as error:
        recvae.load(folder, "cpu")
    assert len(str(error.value)) < 600
    assert made.elements < 10_000
    assert made.operations < 10_000


def test_another_models_resume_state_is_refused(tmp_path):
    for place, (mine, theirs) in enumerate(
        [
            ("mult-vae", {}),
            ("mult-dae", {"latent": 7}),
            ("mult-dae", {"average": 0.5}),
        ]
    ):
        folder, other = tmp_path / f"run{place}", tmp_path / f"other{place}"
        model("mult-dae", epochs=1).fit(BOARD, folder=folder)
        model(mine, epochs=1, **theirs).fit(BOARD, folder=other)
        (folder / run_folder.STATE).write_bytes((other / run_folder.STATE).read_bytes())
        reseal(folder)
        with pytest.raises(FormatError, match=r"state\.safetensors is another model's, or was altered"):
            model("mult-dae", epochs=2).fit(BOARD, folder=folder, resume=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("done", "one"), ("done", -1), ("done", 0), ("done", 2), ("step", None), ("best_epoch", 0.5),
        ("since_best", True), ("best_score", "high"), ("device", 3), ("arithmetic", {"threads": [1]}), ("more", 1),
    ],
)  # fmt: skip
def test_values_of_a_state_of_another_kind_are_refused(name, value, tmp_path):
    model("mult-dae", epochs=1).fit(BOARD, folder=tmp_path / "run")
    state, facts = run_folder.read_state(tmp_path / "run")
    state.values[name] = value
    run_folder.write_state(tmp_path / "run", state, facts)
    with pytest.raises(FormatError, match=r"state\.safetensors was altered"):
        model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run", resume=True)


def test_a_generator_that_cannot_go_on_is_refused(tmp_path):
    model("mult-dae", epochs=1).fit(BOARD, folder=tmp_path / "run")
    state, facts = run_folder.read_state(tmp_path / "run")
    tensors = {**state.tensors, "noise": torch.full_like(state.tensors["noise"], 255)}
    run_folder.write_state(tmp_path / "run", replace(state, tensors=tensors), facts)
    with pytest.raises(FormatError, match="its random generator cannot go on"):
        model("mult-dae", epochs=2).fit(BOARD, folder=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    "facts",
    [
        {"best_epoch": "three"}, {"best_epoch": -1}, {"metrics": []}, {"metrics": {"validation": "high"}},
        {"model": None}, {"vocabulary": 5}, {"conditions": "all"}, {"conditions": [1]}, {"conditions": ["a"]},
        {"more": 1},
    ],
)  # fmt: skip
def test_facts_of_another_kind_are_refused(facts, runs, tmp_path):
    for name in ("mult-vae", "ease"):
        folder = craft(runs / name, tmp_path / name, lambda t: None, facts)
        if facts == {"conditions": ["a"]}:  # nothing that these models look at
            recvae.load(folder, "cpu")
            continue
        with pytest.raises(FormatError, match=r"model\.safetensors (was altered|belongs to another)"):
            recvae.load(folder, "cpu")


RUN_JSON = {
    "config": [
        None,
        [],
        {"name": "ease"},
        {"name": "nothing"},
        {"name": "mult-vae", "seed": -1},
        {"name": ["x"]},
        {"name": "mult-vae", "model": 1},
    ],
    "n_items": ["40", 41, -1, 10**30],
    "metrics": [[], {"validation": "x"}, {"validation": [1]}],
    "versions": [{"torch": 2}, []],
    "resumed": [{}, [{}], [{"epoch": "x", "versions": {}}], [{"epoch": 1, "versions": {"torch": 1}}]],
    "dataset": [[], {"name": 1}, {"refit": 1}, {"refit": {"epoch": 1}}, {"validation_metric": {}}],
    "best_epoch": ["x", 1.5, True],
    "sealed": ["yes", None],
    "model": ["ease", "", 7, "../recvae"],
}


@pytest.mark.parametrize("key", RUN_JSON)
def test_fields_of_run_json_of_another_kind_are_refused(key, runs, tmp_path, cli):
    for place, value in enumerate(RUN_JSON[key]):
        folder = craft(runs / "mult-vae", tmp_path / f"run{place}", lambda t: None)
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, key: value}))
        reseal(folder)
        with pytest.raises(InputError):
            recvae.load(folder, "cpu")
        answer = cli("info", folder, "--verify")
        assert answer.status == 2, value
        assert "bug" not in answer.err


@pytest.mark.parametrize("wrong", [{"phases": {}}, {"phases": {"all": {"loss": 1.0}}}, {"epoch": 2}, {"score": "high"}])
def test_rows_of_another_kind_are_refused(wrong, tmp_path):
    model("mult-dae", epochs=1).fit(BOARD, folder=tmp_path / "run")
    run_folder.write_metrics(tmp_path / "run", [{**run_folder.read_metrics(tmp_path / "run")[0], **wrong}])
    with pytest.raises(FormatError, match=r"metrics\.jsonl was altered"):
        run_folder.read_metrics(tmp_path / "run")


DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "deep": DEEP,
    "deep inside": '{"kind": "recvae-run", "config": ' + DEEP + "}",
    "half a pair": '{"kind": "recvae-run", "model": "\\ud800"}',
    "long number": '{"kind": "recvae-run", "n_items": ' + "9" * 5000 + "}",
    "no number": '{"kind": "recvae-run", "metrics": {"validation": NaN}}',
    "infinite": '{"kind": "recvae-run", "metrics": {"validation": 1e999}}',
}


@pytest.mark.parametrize("file", ["run.json", "metrics.jsonl"])
@pytest.mark.parametrize("text", TEXTS)
def test_json_that_python_stumbles_over_is_one_sentence(file, text, cli, tmp_path):
    folder = tmp_path / "run"
    model("mult-dae", epochs=1).fit(checkerboard(), folder=folder)
    (folder / file).write_text(TEXTS[text])
    reseal(folder)
    answer = cli("info", folder)
    assert answer.status == 2
    assert answer.err.startswith(f"Error: {folder / file} is damaged")
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 500
