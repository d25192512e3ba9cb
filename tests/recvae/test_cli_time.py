"""prepare --split time, train and evaluate: new users and new items are told apart, and count."""

import numpy as np
import pytest

from data_prep import Dataset

COLUMNS = ("--user-column", "user", "--item-column", "item", "--time-column", "time")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Clicks of 60 users of two tastes on 41 days of 2020; some come late, and so do items 40 to 43."""
    draw = np.random.default_rng(5)
    rows = []
    for user in range(60):
        begin = 34 if user % 3 == 0 else 0
        for item in draw.permutation(np.arange(user % 2, 44, 2))[:16]:
            day = int(draw.integers(begin, 41))
            if item < 40 or day >= 34:
                rows.append(f"u{user},{item},2020-{1 + day // 31:02}-{1 + day % 31:02}")
    file = tmp_path_factory.mktemp("log") / "clicks.csv"
    file.write_text("\n".join(["user,item,time", *rows]) + "\n")
    return file


def test_a_time_split_is_prepared_trained_on_and_evaluated(cli, log, tmp_path):
    by_time = ("--split", "time", "--cutoff", "2020-02-04", "--min-items-per-user", 2, "--first-clicks", 3)
    answer = cli("prepare", log, *COLUMNS, *by_time, "--out", tmp_path / "d")
    assert answer.status == 0, answer.err
    assert "users are new, with" in answer.out
    data = Dataset.load(tmp_path / "d")
    data.verify()
    new = data.arrivals("test")
    assert new.new_users.any()
    assert new.new_item_clicks.any()
    assert cli("train", tmp_path / "d", "--model", "item-knn", "--out", tmp_path / "run", "-q").status == 0
    words = cli("evaluate", tmp_path / "run", tmp_path / "d", "--metrics", "recall@5")
    assert "new users: recall@5" in " ".join(words.out.split())
    assert "on items that training never saw: these count as not found." in " ".join(words.out.split())
    found = cli("evaluate", tmp_path / "run", tmp_path / "d", "--metrics", "recall@5,plain_recall@5", "--json").json
    groups, whole = found["groups"], found["models"]["item-knn"]["metrics"]["recall@5"]
    assert groups["new_users"]["recall@5"]["users"] + groups["known_users"]["recall@5"]["users"] == whole["users"]
    assert whole["users"] == np.count_nonzero(np.diff(data.test_out.indptr) + new.new_item_clicks)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--cutoff", "0.8"), "Name --split time too, or leave out --cutoff"),
        (("--split", "time", "--cutoff", "next week"), "The cutoff must be a date such as 2020-01-31"),
        (("--split", "time", "--held-out-share", "0.1"), "--cutoff, --validation-share and --first-clicks"),
        (("--split", "time", "--cutoff", "2031-01-01"), "choose an earlier one"),
    ],
)
def test_mistakes_get_a_sentence(cli, log, tmp_path, options, words):
    answer = cli("prepare", log, *COLUMNS, *options, "--out", tmp_path / "d")
    assert (answer.status, answer.out) == (2, "")
    assert words in answer.err
    assert not (tmp_path / "d").exists()
