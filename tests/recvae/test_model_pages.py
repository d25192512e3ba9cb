"""The pages say what is there: every command parses, every name in code, every path and every link resolves."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

import recvae
from recvae.cli import app
from recvae.config import resolve
from recvae.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "models"
INDEX = FOLDER / "README.md"
TEXTS = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
]
PAGES = [path for path in TEXTS if path.parent == FOLDER and path != INDEX]

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


def resolved(name):
    """Import the longest module of a dotted name and follow its attributes."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise  # of a package that the module needs
            continue
        for attribute in parts[end:]:
            found = getattr(found, attribute)
        return found
    raise ModuleNotFoundError(name)


def commands(path):
    """Return the verb and the arguments of every line that calls recvae, but for lines with variables of a script."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")  # a command may go on in the next line
    lines = re.findall(r"^ *(recvae .*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines if "$" not in line]


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def short(value):
    """Return a figure as the tables have it."""
    return f"{value:.4f}".replace("0.", ".", 1)


def test_every_model_has_a_page_and_every_page_a_model():
    assert {path.stem for path in PAGES} == set(MODELS)
    listed = re.findall(r"^\| \[`([\w-]+)`\]\(([\w-]+)\.md\)", INDEX.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(name == page for name, page in listed)
    assert {name for name, _ in listed} == set(MODELS)
    assert len(listed) == len({name for name, _ in listed})


@each_text
def test_every_command_parses(path):
    verbs = typer.main.get_command(app).commands
    for verb, *arguments in commands(path):
        given = verbs[verb].make_context(verb, arguments).params
        if verb == "train" and path in PAGES:
            assert resolve(given["model"], given["config"], given["settings"] or [], given["seed"]).name == path.stem


@each_page
def test_a_page_shows_how_to_train(path):
    assert "train" in {verb for verb, *_ in commands(path)}


@each_page
def test_every_option_named_exists(path):
    kind = MODELS[path.stem].model_class()
    for section, name, value in re.findall(r"`(model|train)\.(\w+)(?:=([^`]*))?`", path.read_text(encoding="utf-8")):
        options = kind.model_defaults if section == "model" else kind.train_defaults
        assert hasattr(options, name), f"{section}.{name}"
        if value:
            resolve(path.stem, None, [f"{section}.{name}={value}"])


@each_page
def test_every_configuration_of_a_model_is_named(path):
    """As `name`, unless it is the small sample's."""
    of_model = {p.stem for p in (ROOT / "configs").glob("*.toml") if f'name = "{path.stem}"' in p.read_text("utf-8")}
    text = path.read_text(encoding="utf-8")
    assert {name for name in of_model if not name.startswith("sample-")} <= set(re.findall(r"`([\w-]+)`", text))


@each_text
def test_every_name_in_code_resolves(path):
    text = path.read_text(encoding="utf-8")
    names = re.findall(r"`((?:recvae|eval|data_prep)\.[\w.]+)`", text)
    assert names or path not in (*PAGES, ROOT / "docs" / "equations.md", ROOT / "docs" / "elbo.md")
    for name in names:
        resolved(name)
    for place in re.findall(r"`((?:recvae|eval|data_prep|benchmarks|tests|configs|\.ci)/[\w./-]*)`", text):
        assert "NAME" in place or (ROOT / place).exists(), place


@each_text
def test_every_link_resolves(path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        to = path.parent / name if name else path
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


@each_page
def test_figures_are_the_studys(path):
    """A row of MovieLens-1M or MovieLens-100K is the record's, to the last digit."""
    text = path.read_text(encoding="utf-8")
    for title, record in (("MovieLens-1M", "study-ml-1m"), ("MovieLens-100K", "study-ml-100k")):
        rows = json.loads((ROOT / "benchmarks" / "results" / f"{record}.json").read_text(encoding="utf-8"))["rows"]
        if path.stem not in rows:
            continue
        line = re.search(rf"^\| {title} \| (.*) \|$", text, flags=re.MULTILINE)
        assert line is not None
        of_model = rows[path.stem]
        means = [of_model["metrics"][metric] for metric in ("ndcg@100", "recall@20", "recall@50")]
        expected = [f"{short(mean['mean'])} ±{short(mean['se'])}" for mean in means]
        if "versus" in of_model:
            to = of_model["versus"]["ndcg@100"]
            expected.append(f"{short(to['difference'])} [{short(to['low'])}, {short(to['high'])}]")
        assert line[1].split(" | ") == expected


def test_two_commands_set_everything_up():
    """Each in a block of its own, with the versions that were tested; .ci/run runs the second."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [block for block in blocks if "pip " in block] == [
        'pip install -c constraints.txt ".[plot,tune,serve]" && recvae quickstart\n',
        'pip install -c constraints.txt -e ".[dev]" && pytest\n',
    ]


def test_the_citation_names_the_version_and_the_papers():
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", cited, flags=re.MULTILINE) == [recvae.__version__]
    assert re.findall(r"arxiv.org/abs/([\d.]+)", cited) == ["1802.05814", "1912.11160"]
    assert f"[Unreleased]: {recvae.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_names_that_are_not_there_are_found_out():
    with pytest.raises(AttributeError):
        resolved("recvae.nn.densities.kl_standard_abnormal")
    with pytest.raises(ModuleNotFoundError):
        resolved("recwae.losses")
