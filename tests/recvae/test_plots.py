"""Figures: what is drawn, where it is written, and what is refused."""

import builtins

import pytest

from recvae.errors import InputError
from recvae.reports.figures import comparison, training_curves

METRICS = ("recall@20", "recall@50", "ndcg@100", "coverage@20")


def results(models=("ease", "recvae", "mult-vae", "popularity"), metrics=METRICS):
    means = {"popularity": 0.2}
    return {
        "models": {
            name: {
                "metrics": {
                    metric: {"mean": means.get(name, 0.4) + 0.003 * place, "se": 0.007, "users": 600}
                    for metric in metrics
                }
            }
            for place, name in enumerate(models)
        },
        "dataset": {"name": "ml-1m"},
        "environment": {},
    }


def rows(epochs=5, *, phases=("encoder", "decoder"), validated=True):
    return [
        {
            "epoch": epoch,
            "phases": {
                name: {"loss": 300 / epoch, "nll": 290 / epoch}
                | ({"kl": 2.0, "beta": 0.1} if name != "decoder" else {})
                for name in phases
            },
            "score": 0.4 - 0.01 * abs(epoch - 3) if validated else None,
            "best_epoch": min(epoch, 3) if validated else epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def svg(draw, *arguments, path, **options):
    """Draw to SVG with text kept as text, and return it."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw(*arguments, path, **options)
    return path.read_text()


@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_figures_are_written_in_the_format_of_the_suffix(tmp_path, suffix, magic):
    path = tmp_path / "new" / f"figure.{suffix}"
    comparison(results(), path)
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_comparison_names_models_metrics_values_and_what_the_bars_are(tmp_path):
    text = svg(comparison, results(), path=tmp_path / "c.svg")
    for part in ("ease", "mult-vae", "popularity", "ndcg@100", "coverage@20", ".4060", ".2090", "ml-1m, 600 users"):
        assert part in text
    assert "95 % interval" in text
    assert "below the axis" in text  # popularity is far off
    assert "below the axis" not in svg(comparison, results(("ease", "recvae")), path=tmp_path / "c.svg")


def test_the_same_results_give_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        comparison(results(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_missing_values_leave_gaps(tmp_path):
    value = results()
    del value["models"]["ease"]["metrics"]["recall@20"]
    value["models"]["recvae"]["metrics"]["recall@20"] = {"mean": None, "se": None, "users": 0}
    value["models"]["mult-vae"]["metrics"]["recall@20"]["se"] = None
    comparison(value, tmp_path / "c.png")
    comparison(results(("ease",), ("ndcg@100",)), tmp_path / "c.png")


def test_training_curves_show_phases_and_the_best_epoch(tmp_path):
    text = svg(training_curves, rows(), path=tmp_path / "t.svg", metric="ndcg@100", title="recvae on ml-1m")
    for part in ("encoder", "decoder", "loss (nats per user)", "KL divergence", "ndcg@100", "best: 0.4000, epoch 3"):
        assert part in text
    assert "recvae on ml-1m" in text


def test_training_curves_of_one_epoch_and_without_validation(tmp_path):
    text = svg(training_curves, rows(1, phases=("all",), validated=False), path=tmp_path / "t.svg")
    assert "best:" not in text
    assert "validation" not in text
    plain = [{"epoch": 1, "phases": {"all": {"loss": 3.0}}}]
    assert "KL" not in svg(training_curves, plain, path=tmp_path / "t.svg")


def test_nothing_to_draw_and_other_suffixes_are_refused(tmp_path):
    with pytest.raises(InputError, match="no epoch was recorded"):
        training_curves([], tmp_path / "t.png")
    with pytest.raises(InputError, match="no model has a metric"):
        comparison(results(metrics=()), tmp_path / "c.png")
    with pytest.raises(InputError, match=r"\.png, \.svg or \.pdf"):
        comparison(results(), tmp_path / "c.jpg")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'recvae\[plot\]'"):
        comparison(results(), tmp_path / "c.png")
