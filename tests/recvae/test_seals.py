"""Seals: a change of any bit of a file that is read is refused, kills lose nothing, and older folders are read."""

import functools
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import checkerboard
from sealing import reseal, unseal
from small_models import BOARD, SETTINGS, equal, model

import recvae
from recvae.errors import FormatError, InputError
from recvae.experiments.study import read_study
from recvae.files import swap
from recvae.models.blend import Blend
from recvae.training import run_folder as checkpoint
from recvae.training import seals

BEFORE = Path(__file__).parent.parent / "before_seals"  # written by the version that had no seals
SCORES = [0.0, 0.5, 0.6, 0.2, 0.3, 0.4, 0.1, 0.2]  # of epochs 1 to 8
CHANGES = 60  # of each file


def read_run(folder):
    """Read all of a run folder that any verb reads."""
    checkpoint.read_metrics(folder)
    checkpoint.read_state(folder)
    if (folder / checkpoint.BEST).is_file():
        checkpoint.read_weights(folder, file=checkpoint.BEST)
    recvae.load(folder, "cpu")


def fit(folder, epochs=3, name="mult-dae", **more):
    """Fit with a best epoch 2 of those validated by schedule, and an extra validation of a third that is better."""
    done = [0]

    def count(report):
        done[0] = report.epoch

    found = checkpoint.read_state(folder) if more.get("resume") and (folder / "run.json").is_file() else None
    done[0] = found[0].values["done"] if found else 0
    if name == "mult-dae":
        made = model(name, epochs=epochs, validate_every=2, latent=2)
    else:
        of_recvae = {**SETTINGS["recvae"], "hidden": 4, "latent": 2, "seed": 4, "device": "cpu"}
        made = recvae.RecVAEEDLAE(**of_recvae, epochs=epochs, validate_every=2, average=0.0)
    made.dataset = {"name": "board"}
    titles = [f"Title {n}" for n in range(40)]
    named = {"titles": titles, "item_tags": {str(n): ["even" if n % 2 == 0 else "odd"] for n in range(40)}}
    return made.fit(BOARD, validation=lambda _: SCORES[done[0]], **named, folder=folder, on_epoch=count, **more)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run folder with every file that there may be, a blend's and a study's, and how each is read."""
    place = tmp_path_factory.mktemp("folders")
    fit(place / "run")
    fit(place / "fixed", name="recvae-edlae")
    parts = [recvae.EASE(l2=5.0).fit(BOARD), recvae.ItemKNN(neighbours=4).fit(BOARD)]
    Blend(parts, BOARD, [0.25, 0.75]).save(place / "blend")
    study = read_study(shutil.copytree(BEFORE / "study", place / "study"))
    study.add(study.trials.pop())  # written again, with a seal
    return {
        "run": (place / "run", read_run),
        "fixed": (place / "fixed", read_run),
        "blend": (place / "blend", recvae.load),
        "study": (place / "study", read_study),
    }


@pytest.mark.parametrize("kind", ["run", "fixed", "blend", "study"])
def test_a_change_of_any_bit_is_refused(kind, folders, tmp_path):
    folder, read = folders[kind]
    copy = shutil.copytree(folder, tmp_path / kind)
    read(copy)
    files = [
        path for path in copy.rglob("*") if path.is_file() and path.name not in ("trials.csv", "best.toml", "tune.png")
    ]
    names = {path.relative_to(copy).as_posix() for path in files}
    assert kind != "run" or names == {*checkpoint.FILES, seals.SEAL}
    assert kind != "fixed" or len(names - {*checkpoint.FILES, seals.SEAL}) == 1
    rng = np.random.default_rng(5)
    for file in files:
        whole = file.read_bytes()
        for place in rng.permutation(len(whole))[:CHANGES]:
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.integers(8)
            file.write_bytes(changed)
            with pytest.raises(FormatError) as error:
                read(copy)
            assert str(copy) in str(error.value)
            assert "\n" not in str(error.value)
        file.write_bytes(whole)
    read(copy)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("run.json", '"name": "board"', '"name": "other"'),
        ("run.json", '"best_epoch": 3', '"best_epoch": 2'),
        ("run.json", '"format": 1,', '"format":  1,'),  # bytes count, not their meaning
        ("model.safetensors", '"best_epoch\\": 3', '"best_epoch\\": 2'),
        ("items.csv", "Title 7", "Title 8"),
        ("items.csv", "\n7,7,Title 7", '\n7,"7",Title 7'),
        ("metrics.jsonl", '"score": 0.5', '"score": 0.6'),
        ("resume/state.safetensors", '\\"score\\": 0.5', '\\"score\\": 0.7'),
        ("resume/best.safetensors", '"best_epoch\\": 2', '"best_epoch\\": 1'),
    ],
)
def test_altered_facts_are_refused(file, old, new, folders, tmp_path, cli):
    folder = shutil.copytree(folders["run"][0], tmp_path / "run")
    content = (folder / file).read_bytes()
    assert old.encode() in content
    (folder / file).write_bytes(content.replace(old.encode(), new.encode(), 1))
    with pytest.raises(FormatError, match=Path(file).name):
        read_run(folder)
    answer = cli("info", folder, "--verify")
    assert answer.status == 2
    assert Path(file).name in answer.err


def test_what_is_missing_or_added_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["run"][0], tmp_path / "run")
    for name in (seals.SEAL, checkpoint.STATE):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(FormatError, match=f"{Path(name).name} is missing"):
            read_run(folder)
        with pytest.raises(FormatError, match=f"{Path(name).name} is missing"):
            fit(folder, epochs=5, resume=True)
        (folder / name).write_bytes(kept)
    for name in checkpoint.FILES:
        other = shutil.copytree(folder, tmp_path / "other")
        (other / name).unlink()
        with pytest.raises(FormatError):
            checkpoint.verify(other)
        shutil.rmtree(other)
    parts = recvae.EASE(l2=5.0).fit(BOARD)
    parts.save(tmp_path / "ease")
    shutil.copy(folder / checkpoint.METRICS, tmp_path / "ease")
    with pytest.raises(FormatError, match=r"metrics.jsonl was added"):
        checkpoint.read_metrics(tmp_path / "ease")


def test_a_copy_without_what_only_training_needs_loads(folders, tmp_path):
    folder = shutil.copytree(folders["run"][0], tmp_path / "run")
    shutil.rmtree(folder / "resume")
    (folder / checkpoint.METRICS).unlink()
    assert recvae.load(folder, "cpu").best_epoch == 3
    assert checkpoint.read_metrics(folder) == []


def test_verify_says_what_it_could_compare(cli, folders, tmp_path):
    for kind in ("run", "fixed", "blend"):
        folder = folders[kind][0]
        answer = cli("info", folder, "--verify")
        assert "every file is as it was written" in answer.out, answer.err
        assert cli("info", folder, "--verify", "--json").json["sealed"] is True
    for folder in (BEFORE / "mult-dae", BEFORE / "blend"):
        answer = cli("info", folder, "--verify")
        assert answer.status == 0
        assert "the folder is from before seals" in answer.out
        assert cli("info", folder, "--verify", "--json").json["sealed"] is False


def test_folders_from_before_seals_are_read(tmp_path):
    board = checkerboard(users=30, items=12)
    scores = np.load(BEFORE / "scores.npy")
    blend = recvae.load(BEFORE / "blend", "cpu")
    for one, expected in zip((*blend.components, blend), scores, strict=True):
        np.testing.assert_allclose(
            one.recommend(board, k=12, exclude_seen=False).scores, expected, rtol=1e-5, atol=1e-6
        )
    assert len(read_study(BEFORE / "study").trials) == 3


def test_a_run_from_before_seals_goes_on_and_gets_one(tmp_path):
    board, ids, titles = (
        checkerboard(users=30, items=12),
        [f"i{n}" for n in range(12)],
        [f"Film {n}" for n in range(12)],
    )
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.25, 5: 0.2}

    def five_epochs(folder, done, **more):
        def validation(_):
            count.append(1)
            return scores[len(count)]

        count = [1] * done
        made = recvae.MultDAE(latent=3, batch_size=10, epochs=5, seed=4, device="cpu")
        return made.fit(board, validation=validation, item_ids=ids, titles=titles, folder=folder, **more)

    whole = five_epochs(tmp_path / "whole", 0).tensors()
    folder = shutil.copytree(BEFORE / "mult-dae", tmp_path / "run")
    continued = five_epochs(folder, 3, resume=True)
    for name, value in continued.tensors().items():  # to the bit on the machine that wrote it: see the kills below
        torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-5)
    assert continued.best_epoch == 2
    assert checkpoint.verify(folder)
    assert recvae.load(folder, "cpu").best_epoch == 2


def test_an_extra_validation_of_before_seals_cannot_be_taken_back(tmp_path):
    fit(tmp_path / "run")
    state, facts = checkpoint.read_state(tmp_path / "run")
    del state.values["arithmetic"]  # as older versions wrote it, with the extra validation in it
    state.values |= {"best_epoch": 3, "best_score": 0.6, "since_best": 0}
    checkpoint.write_state(tmp_path / "run", state, facts)
    with pytest.raises(InputError, match=r"earlier recvae.*Train again"):
        fit(tmp_path / "run", epochs=5, resume=True)


class KilledError(BaseException):
    """The end of the process: nothing may tidy up."""


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["new", "longer", "before seals", "new, fixed", "longer, fixed"])
def test_a_kill_between_any_two_files_loses_nothing(begin, tmp_path, monkeypatch):
    """Cut off at the n-th change of a name, for every n: what is there is as sealed, and the run goes on exactly."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # only time
    new = begin.startswith("new")
    epochs = 3 if new else 5
    name = "recvae-edlae" if begin.endswith("fixed") else "mult-dae"
    whole = fit(tmp_path / "whole", epochs, name)
    expected = {file: (tmp_path / "whole" / file).read_bytes() for file in (checkpoint.RUN, checkpoint.WEIGHTS)}
    fit(tmp_path / "shorter", name=name)
    rename, exchange, unlink = Path.rename, swap.exchange, Path.unlink
    for n in range(1, 60):
        folder = tmp_path / f"run{n}"
        if not new:
            shutil.copytree(tmp_path / "shorter", folder)
        if begin == "before seals":
            unseal(folder)
        left = n

        def killed(*arguments, of=rename, **options):
            nonlocal left
            left -= 1
            if left <= 0:
                raise KilledError
            return of(*arguments, **options)

        def removed(*arguments, **options):
            if arguments[0].name.endswith(".lock"):  # a dead process holds no lock
                return unlink(*arguments, **options)
            if arguments[0].name.endswith(".part"):  # a dead process deletes none of its temporary files
                return None if left <= 0 else unlink(*arguments, **options)  # noqa: B023 - called in this round only
            return killed(*arguments, of=unlink, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            patch.setattr(swap, "exchange", functools.partial(killed, of=exchange))
            patch.setattr(Path, "unlink", removed)
            try:
                fit(folder, epochs, name, resume=True)
                ended = True
            except KilledError:
                ended = False
        if ended:
            break
        if (folder / checkpoint.RUN).is_file():
            checkpoint.verify(folder)
            if (folder / checkpoint.WEIGHTS).is_file():
                read_run(folder)
        again = fit(folder, epochs, name, resume=True)
        assert equal(whole.tensors(), again.tensors()), n
        for file, content in expected.items():
            assert (folder / file).read_bytes() == content, (n, file)
        assert checkpoint.files_of(folder) == checkpoint.files_of(tmp_path / "whole"), n
        assert checkpoint.verify(folder)
        assert not list(folder.rglob("*.part")), n
    assert n > 12


def test_a_run_under_way_can_be_read_at_any_moment(tmp_path):
    """While a run writes its files another thread reads them, and never meets a file that is not as sealed."""
    made, folder, over = model("mult-dae", epochs=25, latent=2), tmp_path / "run", threading.Event()
    errors, reads = [], []

    def keep_reading():
        while not over.is_set():
            if (folder / checkpoint.WEIGHTS).is_file():
                try:
                    recvae.load(folder, "cpu")
                    checkpoint.read_metrics(folder)
                    reads.append(1)
                except Exception as error:  # noqa: BLE001 - whatever it is
                    errors.append(str(error))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        made.fit(BOARD, folder=folder)
    finally:
        over.set()
        reader.join(timeout=60)
    assert errors == []
    assert reads


def test_a_seal_with_a_right_digest_and_odd_contents_is_refused_or_read(folders, tmp_path):
    folder = shutil.copytree(folders["run"][0], tmp_path / "run")
    record = json.loads((folder / seals.SEAL).read_text())
    for odd in (
        "[]",
        "{}",
        '{"files": 3}',
        '{"files": {"run.json": "x"}}',
        "[" * 100_000,
        '{"files": {"\\ud800": []}}',
    ):
        (folder / seals.SEAL).write_text(odd)
        with pytest.raises(FormatError, match=r"seal\.json was altered"):
            recvae.load(folder)
    (folder / seals.SEAL).write_text(json.dumps(record))
    with pytest.raises(FormatError, match=r"seal\.json was altered"):
        recvae.load(folder)
    reseal(folder)
    recvae.load(folder)
