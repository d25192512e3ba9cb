"""benchmarks.accuracy.backtest: the same models on a random split, on a time split and replayed, in one table."""

import numpy as np
import pandas as pd

from benchmarks.accuracy import backtest, backtest_tables
from data_prep import prepare, read_log

MODELS = ["popularity", "item-knn"]


def test_three_protocols_and_their_table(capsys):
    draw = np.random.default_rng(1)
    rows = [
        (user, int(item), 1_600_000_000 + backtest.DAY * int(draw.integers(3 * (user % 20), 90)))
        for user in range(60)
        for item in draw.permutation(np.arange(user % 2, 24, 2))[:9]
    ]
    frame = pd.DataFrame(rows, columns=list("uit"))
    named = {"user_column": "u", "item_column": "i", "time_column": "t"}
    told = {"metric": backtest.MAIN, "epochs": 2}
    for split in ("random", "time"):
        told[split] = backtest.on_split(prepare(frame, **named, split=split), MODELS, 2)
    told["backtest"] = backtest.replayed(read_log(frame, **named), MODELS, 2)
    lines = backtest_tables.backtest(told)
    text = " ".join(lines)
    assert lines[0] == "| model | random split | time split | known users | new users | backtest |"
    assert "On the random split item-knn is first" in text
    assert "| clicks seen | questions | item-knn | popularity |" in lines
    assert "test users" in text
    assert "time item-knn: " in capsys.readouterr().out
