"""results.json and the tables made from it."""

import copy
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from eval import Evaluation, Metric, compare, summarize
from recvae.errors import FormatError, InputError
from recvae.reports.machine import environment
from recvae.reports.results import ModelResult, main_metric, ranked_models, read_results, results, write_results
from recvae.reports.tables import markdown_table, rich_table

BETTER = np.array([0.1, 0, 0, 0.05])


def evaluation(values, **list_set):
    """An evaluation made from per-user values."""
    per_user = {name: np.asarray(value, dtype=float) for name, value in values.items()}
    metrics = {name: summarize(value) for name, value in per_user.items()}
    metrics |= {name.replace("_at_", "@"): Metric(value, np.nan, 4) for name, value in list_set.items()}
    return Evaluation(metrics, per_user, left_out=1, rank_seconds=0.25, score_seconds=0.01)


def example():
    """Two models and a baseline, with made-up values of four users of whom one counts for nothing."""
    base = np.array([0.2, np.nan, 0.4, 0.9])
    models = {
        "popularity": ModelResult(evaluation({"recall@20": base + 0.2, "ndcg@100": base - 0.1}, coverage_at_10=0.05)),
        "ease": ModelResult(
            evaluation({"recall@20": base, "ndcg@100": base + BETTER}, coverage_at_10=0.5),
            train_seconds=1.94,
            peak_memory_mb=1310,
            config={"l2": 800},
        ),
        "recvae": ModelResult(evaluation({"recall@20": base, "ndcg@100": base}), rank_seconds=3, train_seconds=212.4),
    }
    return results(models, {"name": "ml-1m"}, {"python": "3.11"})


def test_the_shape_is_the_one_of_the_design():
    value = example()
    assert list(value) == ["models", "dataset", "environment"]
    ease = value["models"]["ease"]
    assert list(value["models"]) == ["popularity", "ease", "recvae"]
    assert set(ease["metrics"]["ndcg@100"]) == {"mean", "se", "users"}
    assert ease["metrics"]["ndcg@100"]["users"] == 3
    assert ease["metrics"]["coverage@10"] == {"mean": 0.5, "se": None, "users": 4}
    assert (ease["train_seconds"], ease["peak_memory_mb"], ease["config"]) == (1.94, 1310, {"l2": 800})
    assert (ease["rank_seconds"], value["models"]["recvae"]["rank_seconds"]) == (0.25, 3)
    assert "train_seconds" not in value["models"]["popularity"]
    json.dumps(value, allow_nan=False)


def test_versus_best_is_the_paired_comparison_with_the_best():
    models = example()["models"]
    assert "versus_best" not in models["ease"]
    versus = models["recvae"]["versus_best"]
    base = np.array([0.2, np.nan, 0.4, 0.9])
    expected = compare(base, base + BETTER)
    assert versus["metric"] == "ndcg@100"
    assert versus["difference"] == pytest.approx(-0.05)
    assert {key: versus[key] for key in ("difference", "low", "high", "p")} == {
        key: getattr(expected, key) for key in ("difference", "low", "high", "p")
    }


def test_another_main_metric_and_one_that_nobody_has():
    models = {
        name: ModelResult(evaluation({"map@5": [0.1, value], "mrr@5": [value, 0]}))
        for name, value in (("a", 0.3), ("b", 0.9))
    }
    assert results(models, {}, {}, metric="mrr@5")["models"]["a"]["versus_best"]["metric"] == "mrr@5"
    value = results(models, {}, {})
    assert main_metric(value) == "map@5"
    assert ranked_models(value) == ["b", "a"]


def test_one_model_nobody_to_score_and_no_model():
    single = results({"ease": ModelResult(evaluation({"ndcg@100": [np.nan, np.nan]}))}, {}, {})
    assert single["models"]["ease"]["metrics"]["ndcg@100"] == {"mean": None, "se": None, "users": 0}
    assert "versus_best" not in single["models"]["ease"]
    assert "ease" in markdown_table(single)
    with pytest.raises(InputError, match="name at least one model"):
        results({}, {}, {})


def test_models_evaluated_on_different_users_are_not_compared():
    models = {
        "a": ModelResult(evaluation({"ndcg@100": [0.1, np.nan]})),
        "b": ModelResult(evaluation({"ndcg@100": [0.1, 0.2]})),
    }
    with pytest.raises(InputError, match="same users"):
        results(models, {}, {})


def test_markdown_sorts_marks_the_best_and_leaves_gaps_empty():
    lines = markdown_table(example()).splitlines()
    assert lines[0] == (
        "| model | ndcg@100 | recall@20 | coverage@10 | ndcg@100 less the best [95 %] | train s | rank s | peak MB |"
    )
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| ease", "| recvae", "| popularity"]
    assert "| **.5500** ±" in lines[2]
    assert "| .5000 ±" in lines[3]
    assert "| **.7000** ±" in lines[4]
    assert "| .5000 | best | 1.9 | 0.25 | 1,310 |" in lines[2]  # coverage: neither bold nor with an error
    assert "| 212 | 3.0 |  |" in lines[3]
    assert "-.0500 [" in lines[3]
    assert "over 3 users" in lines[-1]
    assert "ml-1m" in lines[-1]


def test_numbers_keep_their_meaning():
    value = results({"a|b": ModelResult(evaluation({"ndcg@100": [1.0, 1.0]}, novelty_at_5=10.5))}, {}, {})
    table = markdown_table(value)
    assert "**1.0000** ±.0000" in table
    assert "10.5000" in table
    assert "a\\|b" in table
    tie = results({n: ModelResult(evaluation({"ndcg@100": [1e-9 * i, 0]})) for i, n in enumerate("ab")}, {}, {})
    assert "| .0000" in markdown_table(tie)
    assert "-.0000 [" not in markdown_table(tie)


def rendered(value, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(rich_table(value, width=width))
    return console.export_text()


def test_six_models_with_everything_fit_into_eighty_columns():
    value = example()
    wide = {"metrics": value["models"]["ease"]["metrics"] | {"recall@50": {"mean": 0.5, "se": 0.1, "users": 3}}}
    del wide["metrics"]["coverage@10"]
    for name in ("implicit-als", "recvae"):
        value["models"][name] = {**value["models"]["recvae"], **wide, "peak_memory_mb": 1540}
    for model in value["models"].values():
        model["metrics"].pop("coverage@10", None)
    text = rendered(value, 80)
    assert "implicit-als" in text
    assert "peak" in text
    assert "No room" not in text
    assert "…" not in text


@pytest.mark.parametrize("width", [*range(20, 80), 120])
def test_a_narrow_terminal_loses_whole_columns_and_says_so(width):
    text = rendered(example(), width)
    assert ".5500" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("peak" in text.split("±")[0]) is ("No room for:" not in " ".join(text.split()))
    if width >= 22:
        assert "popularity " in text  # names are not folded while a column can go


def test_tables_need_only_the_metrics():
    bare = {"models": {"x": {"metrics": {"mrr@5": {"mean": 0.25, "se": None}}}}, "dataset": {}, "environment": {}}
    assert markdown_table(bare).splitlines()[2] == "| x | **.2500** |"
    assert ".2500" in rendered(bare, 40)


def test_results_go_to_disk_and_back(tmp_path):
    path = tmp_path / "deep" / "results.json"
    write_results(path, example())
    assert read_results(path) == example()


def broken(change):
    value = json.loads(json.dumps(example()))
    change(value)
    return value


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ([], "no JSON object"),
        ({"models": {}}, "'dataset' is missing"),
        ({"models": {}, "dataset": {}, "environment": {}}, "no models"),
        (broken(lambda v: v["models"].update(ease=3)), "model 'ease' has no metrics"),
        (broken(lambda v: v["models"]["ease"]["metrics"].update(x={"mean": "high"})), "metric 'x' of model 'ease'"),
        (broken(lambda v: v["models"]["ease"]["metrics"].update(x={"mean": float("nan")})), "NaN is no number"),
        (broken(lambda v: v["models"]["ease"].update(versus_best={"metric": 3})), "not a comparison"),
        (broken(lambda v: v["models"]["ease"].update(train_seconds="long")), "'train_seconds' of model 'ease'"),
    ],
)
def test_a_file_of_another_shape_is_refused_by_name(tmp_path, value, part):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(value))
    with pytest.raises(FormatError) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


def test_a_missing_or_truncated_file_is_refused_by_name(tmp_path):
    with pytest.raises(FormatError, match="is missing"):
        read_results(tmp_path / "none.json")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(example())[:50])
    with pytest.raises(FormatError, match=r"results\.json is damaged"):
        read_results(path)


def test_tables_do_not_change_the_results():
    value = example()
    before = copy.deepcopy(value)
    markdown_table(value)
    rich_table(value)
    assert value == before


def test_the_environment_names_the_machine():
    facts = environment()
    assert set(facts) == {"date", "python", "platform", "cpu", "cores", "threads", "memory_gb", "versions"}
    assert facts["date"].endswith("+00:00")
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory_gb"] > 0.1
    assert facts["versions"]["numpy"] == np.__version__
    json.dumps(facts)


def test_reports_import_neither_torch_nor_matplotlib():
    program = (
        "import sys, recvae.reports.tables, recvae.reports.figures, recvae.reports.machine; "
        "recvae.reports.machine.environment(); "
        "print(sorted({'torch', 'matplotlib', 'rich', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
