"""Control characters of others' text: shown as text wherever something is printed, kept in files."""

import csv
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import checkerboard

from recvae.cli import main
from recvae.reports.svg import Bar, Line, Point, bar_chart, line_chart, scatter
from recvae.reports.text import in_html, visible, visible_json

EVIL = "\x1b]0;owned\x07 \x1b[2J \x9b31m \x7f \u202egnp.exe \u2066 \r over \x00 \u2028end"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
SHOWN = r"\x1b]0;owned\x07 \x1b[2J \x9b31m \x7f \u202egnp.exe \u2066 \x0d over \x00 \u2028end"


def test_control_characters_are_written_out():
    assert visible(EVIL) == SHOWN
    assert visible("Amélie\t(2001)\n東京 👍") == "Amélie\t(2001)\n東京 👍"
    assert in_html(f"<b>{EVIL}") == f"&lt;b&gt;{SHOWN}"
    assert json.loads(visible_json(json.dumps([EVIL], ensure_ascii=False))) == [EVIL]


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


IN_FILES = "\x1b]0;owned\x07\x9b31m\u202etxt"  # what a CSV file and a file's name can hold


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A dataset whose name, ids, titles and tags hold control characters, and a run of it."""
    place = tmp_path_factory.mktemp("evil")
    matrix = checkerboard(users=80).tocoo()
    clicks = [(f"u{IN_FILES}{u}", f"i{IN_FILES}{i}") for u, i in zip(matrix.row, matrix.col, strict=True)]
    file = write_rows(place / f"clicks{IN_FILES}.csv", [("user", "item"), *clicks])
    names = [(f"i{IN_FILES}{i}", f"{IN_FILES} Film {i}", f"tag{IN_FILES}") for i in range(40)]
    titles = write_rows(place / "titles.csv", [("id", "title", "tags"), *names])
    columns = ("--user-column", "user", "--item-column", "item", "--titles", str(titles))
    prepare = ("prepare", str(file), *columns, "--held-out-users", "10", "--out", str(place / "data"))
    assert main(list(prepare)) == 0
    small = ("--set", "model.hidden=[8]", "--set", "model.latent=3", "--set", "train.epochs=2", "--metric", "ndcg@5")
    for model, options in (("ease", ()), ("mult-vae", small)):
        train = (
            "train",
            str(place / "data"),
            "--model",
            model,
            *options,
            "--out",
            str(place / f"run{IN_FILES}-{model}"),
        )
        assert main(list(train)) == 0
    return place


def commands(place):
    data, ease, vae = place / "data", place / f"run{IN_FILES}-ease", place / f"run{IN_FILES}-mult-vae"
    item = f"i{IN_FILES}3"
    lists = write_rows(place / "histories.csv", [("user", "item"), (f"{IN_FILES}u", item), ("v", f"{IN_FILES}none")])
    bad = write_rows(place / f"bad{IN_FILES}.csv", [("user", "item"), ("1", "2"), ("3", f"4{IN_FILES}", "5")])
    columns = ("--user-column", "user", "--item-column", "item")
    return {
        "prepare": ("prepare", place / f"clicks{IN_FILES}.csv", *columns, "--out", place / "again", "--overwrite"),
        "bad row": ("prepare", bad, *columns, "--out", place / "none"),
        "no such column": ("prepare", bad, "--user-column", IN_FILES, "--item-column", "b", "--out", place / "none"),
        "train": ("train", data, "--model", "ease", "--out", place / f"t{IN_FILES}", "--overwrite"),
        "no such model": ("train", data, "--model", IN_FILES, "--out", place / "none"),
        "no such option": (
            "train",
            data,
            "--model",
            "ease",
            "--set",
            f"model.{IN_FILES}={IN_FILES}",
            "--out",
            place / "x",
        ),
        "evaluate": ("evaluate", ease, data),
        "recommend": ("recommend", ease, "--item", item),
        "histories": ("recommend", ease, "--histories", lists, "--debug"),
        "unknown item": ("recommend", ease, "--item", IN_FILES, "--debug"),
        "similar": ("similar", ease, "--item", item),
        "diagnose": ("diagnose", vae, data, "--samples", "5", "--out", place / f"page{IN_FILES}.html", "--overwrite"),
        "blend": ("blend", ease, vae, data, "--metric", "ndcg@5", "--out", place / f"b{IN_FILES}", "--overwrite"),
        "info of a dataset": ("info", data),
        "info of a run": ("info", vae),
        "no such folder": ("info", place / IN_FILES),
        "no such verb": (IN_FILES,),
        "no such flag": ("info", f"--{IN_FILES}"),
    }


@pytest.mark.parametrize("json_too", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "command",
    [
        *("prepare", "bad row", "no such column", "train", "no such model", "no such option", "evaluate", "recommend"),
        *("histories", "unknown item", "similar", "diagnose", "blend", "info of a dataset", "info of a run"),
        *("no such folder", "no such verb", "no such flag"),
    ],
)
def test_no_verb_prints_a_control_character(cli, evil, command, json_too):
    arguments = commands(evil)[command]
    answer = cli(*arguments, *(["--json"] if json_too else []))
    assert "bug in recvae" not in answer.err
    assert not RAW.search(answer.out)
    assert not RAW.search(answer.err)
    if json_too and command == "similar":
        assert answer.json["item"]["item_id"] == f"i{IN_FILES}3"  # nothing is lost
    if not json_too and command == "similar":
        assert r"\x1b]0;owned\x07\x9b31m\u202etxt Film 3" in answer.out


def test_lists_in_a_file_keep_every_character(cli, evil, tmp_path):
    out = tmp_path / "lists.csv"
    assert (
        cli("recommend", evil / f"run{IN_FILES}-ease", "--item", f"i{IN_FILES}3", "-k", "2", "--out", out).status == 0
    )
    assert IN_FILES in out.read_text(encoding="utf-8")


def test_the_page_of_a_diagnosis_holds_none(cli, evil, tmp_path):
    page = tmp_path / "page.html"
    run = evil / f"run{IN_FILES}-mult-vae"
    assert cli("diagnose", run, evil / "data", "--samples", "5", "--out", page).status == 0
    text = page.read_text(encoding="utf-8")
    assert not RAW.search(text)
    assert r"\x1b]0;owned\x07" in text


def test_charts_hold_none_and_stay_xml():
    line = line_chart(EVIL, [Line(EVIL, [1, 2], [3, 4])], x_label=EVIL)
    bars = bar_chart(EVIL, [Bar(EVIL, 1.0, about=EVIL)], x_label=EVIL)
    dots = scatter(EVIL, [Point(0, 0, 2, EVIL, EVIL), Point(1, 1, 2, EVIL, EVIL)])
    for chart in (line, bars, dots):
        assert not RAW.search(chart)
        ElementTree.fromstring(chart)


def test_figures_take_any_name(tmp_path):
    pytest.importorskip("matplotlib")
    from recvae.reports.figures import training_curves

    rows = [
        {"epoch": e, "phases": {"train": {"loss": 1.0}}, "score": 0.1, "best": True, "best_epoch": e} for e in (1, 2)
    ]
    training_curves(rows, tmp_path / "curves.svg", title="a$x$ $\\frac{$ " + EVIL.replace("\u202e", ""))
    assert not RAW.search((tmp_path / "curves.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tty", [False, True])
def test_progress_tables_and_notes_show_them_as_text(tty):
    """A bar on a terminal, a line elsewhere: rich's own sequences pass, others' do not."""
    program = f"""
import os, sys
from rich.table import Table
from rich.text import Text
from recvae.cli.terminal import Terminal, print_error
terminal = Terminal()
evil = {EVIL!r}
table = Table(title=evil)
table.add_column(evil)
table.add_row(evil)
table.add_row(Text(evil))
terminal.result(evil, Text(evil), table)
terminal.note(evil)
terminal.warn(evil)
print_error(evil)
row = dict(epoch=1, epochs=2, phases={{"train": {{"loss": 1.0}}}}, score=0.5, best=True, best_score=0.5, best_epoch=1)
row["seconds"] = 1.0
with terminal.epochs(evil, epochs=2, label=evil) as display:
    display.epoch(row)
with terminal.amounts(bytes=True) as progress:
    progress(evil, 1, 2)
"""
    environment = os.environ | {
        "COLUMNS": "300",
        "TERM": "xterm",
        **({"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"} if tty else {}),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=120, check=False, env=environment
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    assert r"\x1b]0;owned\x07" in said
    assert "]0;owned" in said
    for sequence in ("\x1b]0", "\x1b[2J", "\x9b", "\u202e", "\x7f", "\x00", "\u2028", "\x07"):
        assert sequence not in said
