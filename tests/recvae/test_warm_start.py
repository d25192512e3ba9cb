"""Warm starts: training that begins with the parameters of an earlier run, on another catalogue."""

import shutil
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import checkerboard
from hypothesis import given, settings
from hypothesis import strategies as st
from quick_models import NEURAL, quick
from scipy.sparse import csr_array
from small_models import BOARD, equal, model

import recvae
from recvae.config import run_config
from recvae.errors import FormatError, InputError, WorkError
from recvae.experiments.measure import begin
from recvae.models.neural import NeuralRecommender
from recvae.models.recvae import RecVAENetwork
from recvae.nn.batches import Clicks
from recvae.nn.network import Network
from recvae.registry import MODELS
from recvae.training import run_folder
from recvae.training.start import Start

IDS = [f"i{n}" for n in range(40)]
LATER = [*reversed(IDS[:30]), *(f"new{n}" for n in range(7))]  # thirty of them in another order, and seven new ones
OLD, NEW = 30, 7


class BeforeTheFirstStepError(Exception):
    """An end of a run before its first update."""


def stopped_before(fit, monkeypatch):
    """Call ``fit``, and return the network's parameters as they are when the loop begins."""
    found = {}

    def begun(network, *arguments, **more):
        found.update({name: value.detach().clone() for name, value in network.named_parameters()})
        raise BeforeTheFirstStepError

    with monkeypatch.context() as patch:
        patch.setattr("recvae.models.neural.run_training", begun)
        with pytest.raises(BeforeTheFirstStepError):
            fit()
    return found


def later_clicks(ids=LATER):
    return csr_array(checkerboard(users=50, items=len(ids), seed=8))


def tagged(kind):
    """What a model needs beside clicks and ids."""
    return {"item_tags": {item: ["a"] for item in (*IDS[:30], *LATER)}} if kind.reads(kind.model_defaults) else {}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier") / "run"
    model("recvae", epochs=3).fit(BOARD, item_ids=IDS, folder=folder)
    return folder


# --- every registered model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_model_starts_or_says_why_not(name, tmp_path):
    kind = MODELS[name].model_class()
    assert bool(kind.no_start) == (not issubclass(kind, NeuralRecommender))
    if kind.no_start:
        quick(name).fit(BOARD, item_ids=IDS).save(tmp_path / "run")
        with pytest.raises(
            InputError, match=f"{MODELS[name].title} has no warm start: it (is|counts) .*clicks|library"
        ):
            begin(run_config({"name": name}), None, start=tmp_path / "run")


@pytest.mark.parametrize("name", NEURAL)
def test_unchanged_items_have_the_same_weights_before_the_first_step(name, monkeypatch):
    earlier = quick(name, **options(name)).fit(BOARD, item_ids=IDS, **tagged(type(quick(name))))
    fresh, start = (
        stopped_before(
            lambda start=start: quick(name, **options(name)).fit(
                later_clicks(), item_ids=LATER, start=start, **tagged(type(earlier))
            ),
            monkeypatch,
        )
        for start in (None, earlier)
    )
    axes = earlier.network.item_axes()
    before = dict(earlier.network.named_parameters())
    here, there = range(OLD), [IDS.index(item) for item in LATER[:OLD]]
    assert axes
    for label, value in start.items():
        axis = axes.get(label)
        if axis is None:
            assert torch.equal(value, before[label]), label
        else:
            assert torch.equal(
                value.index_select(axis, torch.tensor(here)), before[label].index_select(axis, torch.tensor(there))
            )
            new = torch.arange(OLD, OLD + NEW)
            assert torch.equal(value.index_select(axis, new), fresh[label].index_select(axis, new)), label


def options(name):
    """Fewer conditions than the default wants items for."""
    known = {f.name for f in fields(MODELS[name].model_class().model_defaults)}
    return {"min_items": 1} if "min_items" in known else {}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in NEURAL),
        *((name, {"prior": "vamp"}) for name in ("recvae", "mult-vae")),
        ("vaeac", {"ratings": True, "likelihood": "gaussian"}),
    ],
    ids=str,
)
def test_a_network_declares_every_axis_of_items(name, more):
    """The parameters whose shape depends on the catalogue are those declared, along the axis declared."""
    kind = MODELS[name].model_class()
    config = quick(name, **more).config.model
    with torch.device("meta"):
        conditions = (3,) if name == "conditional-vae" else ()
        one, two = (kind.build(n, config, 1, *conditions) for n in (41, 43))
    shapes = {label: tuple(value.shape) for label, value in two.named_parameters()}
    found = {}
    for label, value in one.named_parameters():
        differing = [axis for axis, (a, b) in enumerate(zip(value.shape, shapes[label], strict=True)) if a != b]
        assert len(differing) <= 1
        if differing:
            found[label] = differing[0]
    assert one.item_axes() == found


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True),
    st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True),
)
@settings(max_examples=40, deadline=None)
def test_catalogues_that_overlap_in_part(before, after):
    """Of any two catalogues, in any order: same id, same bits; a new id keeps its own; nothing else changes."""
    start, network, items = made(before, 1), made(after, 2)[1], made(after, 2)[2]
    own = {name: value.detach().clone() for name, value in network.named_parameters()}
    start[0].check(start[0].config, (), network)
    start[0].put_into(network, items)
    for name, value in network.named_parameters():
        for column, item in enumerate(after if name in network.item_axes() else ()):
            source = start[0].tensors[name][before.index(item)] if item in before else own[name][column]
            assert torch.equal(value[column], source)
        if name not in network.item_axes():
            assert torch.equal(value, start[0].tensors[name])
    record = start[0].record(items)
    both = len({*before} & {*after})
    counts = record.kept_items, record.new_items, record.dropped_items
    assert counts == (both, len(after) - both, len(before) - both)


def made(ids, seed):
    """A small RecVAE of a catalogue, as a start, its network and its items."""
    config = run_config({"name": "recvae", "model": {"hidden": 3, "latent": 2, "layers": 2}})
    network = RecVAENetwork(len(ids), config.model, seed)
    items = recvae.training.vocabulary.Vocabulary([str(i) for i in ids], [""] * len(ids))
    return Start("The run", "0" * 12, config, items, (), network.state_dict()), network, items


# --- what is made anew ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_recvaes_old_posterior_is_that_of_the_loaded_encoder(variant):
    start, _, items = made(range(40), 1)
    config = run_config({"name": "recvae", "model": {"hidden": 3, "latent": 2, "layers": 2, "variant": variant}})
    network = RecVAENetwork(40, config.model, 9)
    start.put_into(network, items)
    network.begin_phase("encoder", 0, Clicks(BOARD), 10)
    batch = next(Clicks(BOARD).in_order(60))
    with torch.no_grad():
        for kept, encoded in zip(
            network.latent_prior.kept_posterior(batch), network.encoder.encoded(batch), strict=True
        ):
            torch.testing.assert_close(kept, encoded, rtol=1e-5, atol=1e-6)


def test_what_follows_the_clicks_is_computed_from_the_new_ones():
    earlier = quick("recvae-edlae").fit(BOARD, item_ids=IDS)
    later = quick("recvae-edlae").fit(later_clicks(), item_ids=LATER, start=earlier)
    cold = quick("recvae-edlae").fit(later_clicks(), item_ids=LATER)
    assert torch.equal(later.network.path, cold.network.path)
    stars = later_clicks()
    stars.data = 1 + np.arange(stars.nnz, dtype=np.float32) % 5
    ratings = {"ratings": True, "likelihood": "gaussian"}
    before = quick("vaeac", **ratings).fit(BOARD, item_ids=IDS)
    rated = [quick("vaeac", **ratings).fit(stars, item_ids=LATER, start=start) for start in (before, None)]
    assert torch.equal(rated[0].network.item_offset, rated[1].network.item_offset)
    assert torch.equal(rated[0].network.mean, rated[1].network.mean)


def test_a_model_may_start_from_itself():
    one = model("recvae", epochs=2).fit(BOARD, item_ids=IDS)
    two = model("recvae", epochs=2).fit(BOARD, item_ids=IDS)
    again = one.fit(later_clicks(), item_ids=LATER, start=one)
    assert equal(again.tensors(), model("recvae", epochs=2).fit(later_clicks(), item_ids=LATER, start=two).tensors())


def test_the_first_epoch_goes_on_where_the_earlier_run_ended(earlier):
    losses = {}
    for name, start in (("warm", earlier), ("cold", None)):
        reports = []
        model("recvae", epochs=1).fit(later_clicks(), item_ids=LATER, start=start, on_epoch=reports.append)
        losses[name] = reports[0].phases["encoder"]["nll"]
    assert losses["warm"] < losses["cold"]


# --- run folders, and going on ----------------------------------------------------------------------------------


def later_fit(folder, **more):
    return model("recvae", epochs=3).fit(later_clicks(), item_ids=LATER, folder=folder, **more)


def test_the_run_says_where_it_came_from(earlier, tmp_path):
    later_fit(tmp_path / "run", start=earlier)
    start = run_folder.read_run(tmp_path / "run").start
    assert start.version == run_folder.version_of(earlier)
    assert (start.kept_items, start.new_items, start.dropped_items) == (30, 7, 10)
    assert recvae.load(tmp_path / "run").run().start == start
    recvae.load(tmp_path / "run").save(tmp_path / "copy")
    assert run_folder.read_run(tmp_path / "copy").start == start
    assert run_folder.read_run(earlier).start is None


@pytest.mark.parametrize("named", [True, False], ids=["named again", "not named again"])
def test_a_resumed_run_goes_on_from_its_own_state(named, earlier, tmp_path):
    def stop(report):
        if report.epoch == 2:
            raise BeforeTheFirstStepError

    whole = later_fit(tmp_path / "whole", start=earlier)
    with pytest.raises(BeforeTheFirstStepError):
        later_fit(tmp_path / "run", start=earlier, on_epoch=stop)
    again = later_fit(tmp_path / "run", resume=True, **({"start": earlier} if named else {}))
    assert equal(whole.tensors(), again.tensors())
    for file in (run_folder.RUN, run_folder.WEIGHTS):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_a_run_without_an_epoch_begins_again_from_its_start_alone(earlier, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:  # as after a kill: nothing is cleared away
        patch.setattr(run_folder, "remove_run", lambda folder: None)
        stopped_before(lambda: later_fit(run, start=earlier), monkeypatch)
    assert run_folder.read_run(run).start is not None
    with pytest.raises(InputError, match="no epoch yet; name that run again"):
        later_fit(run, resume=True)
    again = later_fit(run, resume=True, start=earlier)
    assert equal(again.tensors(), later_fit(tmp_path / "whole", start=earlier).tensors())


def test_another_start_is_refused(earlier, tmp_path):
    later_fit(tmp_path / "cold")
    later_fit(tmp_path / "warm", start=earlier)
    before = (tmp_path / "warm" / run_folder.WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="began without a warm start, and not from the one named, of version"):
        later_fit(tmp_path / "cold", start=earlier, resume=True)
    with pytest.raises(InputError, match=r"began from the run of version .*, and not from the one named"):
        later_fit(tmp_path / "warm", start=tmp_path / "cold", resume=True)
    assert (tmp_path / "warm" / run_folder.WEIGHTS).read_bytes() == before


# --- starts that do not fit -------------------------------------------------------------------------------------


def test_another_model_and_other_widths(earlier, tmp_path):
    with pytest.raises(InputError, match=r"was trained as RecVAE \('recvae'\), and Mult-VAE \('mult-vae'\) can start"):
        model("mult-vae").fit(BOARD, start=earlier)
    with pytest.raises(
        InputError, match=r"trained with model.hidden=12, model.latent=6\). A warm start needs the same"
    ):
        model("recvae", hidden=8, latent=4).fit(BOARD, start=earlier, folder=tmp_path / "run")
    with pytest.raises(InputError, match=r"lacks the tensor 'pseudo_inputs'.*trained with model.prior=composite"):
        model("recvae", prior="vamp").fit(BOARD, start=earlier, folder=tmp_path / "run")
    with pytest.raises(InputError, match="The model to start from was trained as EASE"):
        model("recvae").fit(BOARD, start=recvae.EASE().fit(BOARD), folder=tmp_path / "run")
    with pytest.raises(InputError, match="not fitted"):
        model("recvae").fit(BOARD, start=model("recvae"), folder=tmp_path / "run")
    with pytest.raises(InputError, match="A path is a text"):
        model("recvae").fit(BOARD, start=7, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_conditions():
    tags = {item: ["a" if n % 2 else "b"] for n, item in enumerate(IDS)}
    earlier = quick("conditional-vae", min_items=5).fit(BOARD, item_ids=IDS, item_tags=tags)
    other = {**tags, **{item: ["c"] for item in IDS[:8]}}
    with pytest.raises(InputError, match=r"has other conditions than this model: it lacks 'c'\. A warm start needs"):
        quick("conditional-vae", min_items=5).fit(BOARD, item_ids=IDS, item_tags=other, start=earlier)


def test_a_damaged_run(earlier, tmp_path):
    run = tmp_path / "damaged"
    shutil.copytree(earlier, run)
    weights = bytearray((run / run_folder.WEIGHTS).read_bytes())
    weights[-3] ^= 1
    (run / run_folder.WEIGHTS).write_bytes(weights)
    with pytest.raises(FormatError, match=r"model.safetensors was altered"):
        later_fit(tmp_path / "run", start=run)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="nowhere does not exist"):
        later_fit(tmp_path / "run", start=tmp_path / "nowhere")


def test_a_network_that_declares_too_little(earlier, monkeypatch):
    """A network from outside whose axes of items are not declared is refused, and not filled with other items."""
    monkeypatch.setattr(Network, "item_axes", lambda self: {})
    with pytest.raises(InputError, match=r"has a tensor 'encoder.first.weight'"):
        later_fit(None, start=earlier)


def test_a_loss_that_is_no_number_leaves_nothing(earlier, tmp_path):
    with pytest.raises(WorkError, match="finite"):
        model("recvae", epochs=2, learning_rate=1e30).fit(
            later_clicks(), item_ids=LATER, folder=tmp_path / "run", start=earlier
        )
    assert not (tmp_path / "run").exists()
