"""Bad input as data: each case's command, its exit status and the parts of its sentence."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import load_npz, save_npz
from small_datasets import as_version_1, rehash

COLUMNS = ("--user-column", "user", "--item-column", "item")
RATED = (*COLUMNS, "--rating-column", "rating", "--min-rating", "4")


@dataclass(frozen=True)
class Place:
    """An empty folder to work in, and good things to break copies of."""

    folder: Path
    clicks: Path
    dataset: Path
    run: Path  # of EASE, trained on the dataset

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(folder, self.folder / folder.name))


def prepare(place: Place, source: object, *options: object) -> list[object]:
    return ["prepare", source, *options, "--out", place.out]


def train(place: Place, *options: object) -> list[object]:
    return ["train", place.dataset, *options, "--out", place.out]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one byte near the end."""
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(bytes(data))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def broken_dataset(place: Place, breaking: Callable[[Path], object]) -> list[object]:
    folder = place.copy(place.dataset)
    breaking(folder)
    return ["train", folder, "--model", "popularity", "--out", place.out]


def broken_run(place: Place, breaking: Callable[[Path], object]) -> list[object]:
    folder = place.copy(place.run)
    breaking(folder)
    return ["evaluate", folder, place.dataset]


def other_catalogue(place: Place) -> list[object]:
    from recvae.cli import main

    rows = "".join(f"u{user},film {item}\n" for user in range(60) for item in range(user % 3, 30, 2))
    other = place.folder / "other"
    main(["prepare", str(place.file("other.csv", "user,item\n" + rows)), *COLUMNS, "--out", str(other), "--quiet"])
    return ["evaluate", place.run, other]


def bad_zip(place: Place, kind: str) -> list[object]:
    path = place.folder / "ml-100k.zip"
    if kind == "not an archive":
        path.write_text("<html>404</html>")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ml-100k/u.data", "1\t2\t5\t0\n" * 100)
        if kind == "truncated":
            cut(path)
    return prepare(place, "ml-100k", "--source", path)


def other_item(run: Path) -> None:
    (run / "items.csv").write_text((run / "items.csv").read_text().replace("002", "902"))


def nan_weights(folder: Path) -> None:
    as_version_1(folder)  # in which clicks have values
    matrix = load_npz(folder / "train.npz")
    matrix.data[3] = np.nan
    save_npz(folder / "train.npz", matrix)
    rehash(folder)


def existing_file(place: Place) -> list[object]:
    place.out.mkdir()
    (place.out / "precious.txt").write_text("kept")
    return train(place, "--model", "popularity")


def under_a_file(place: Place, verb: str) -> list[object]:
    inside = place.file("plain.txt", "text") / "out"
    if verb == "prepare":
        return ["prepare", place.clicks, *COLUMNS, "--out", inside]
    if verb == "recommend":
        return ["recommend", place.run, "--item", "002", "--out", inside.with_suffix(".csv")]
    return ["train", place.dataset, "--model", verb, "--set", "train.epochs=1", "--out", inside]


RATINGS = "user,item,rating\nu1,a,5\nu1,b,4\nu2,a,lots\n"
LATIN = "id,title\n000,Amélie\n".encode("latin-1")

# Each: what it is, the command, the exit status, what the sentence names.
CASES: dict[str, tuple[Callable[[Place], list[object]], int, tuple[str, ...]]] = {
    "missing file": (lambda p: prepare(p, p.folder / "nowhere.csv", *COLUMNS), 2, ("nowhere.csv",)),
    "missing histories": (
        lambda p: ["recommend", p.run, "--histories", p.folder / "nowhere.csv"],
        2,
        ("nowhere.csv",),
    ),
    "missing dataset folder": (
        lambda p: ["train", p.folder / "nowhere", "--model", "ease", "--out", p.out],
        2,
        ("nowhere", "recvae prepare"),
    ),
    "missing run folder": (lambda p: ["evaluate", p.folder / "nowhere", p.dataset], 2, ("nowhere does not exist",)),
    "empty file": (lambda p: prepare(p, p.file("empty.csv", ""), *COLUMNS), 2, ("empty.csv is empty",)),
    "header only": (lambda p: prepare(p, p.file("head.csv", "user,item\n"), *COLUMNS), 2, ("head.csv", "no rows")),
    "wrong column": (
        lambda p: prepare(p, p.clicks, "--user-column", "usr", "--item-column", "item"),
        2,
        ("clicks.csv has no column 'usr'; it has user, item", "Did you mean 'user'?"),
    ),
    "missing column options": (lambda p: prepare(p, p.clicks), 2, ("--user-column", "have user, item")),
    "wrong column of histories": (
        lambda p: ["recommend", p.run, "--histories", p.clicks, "--item-column", "movie"],
        2,
        ("no column 'movie'", "user, item"),
    ),
    "non-numeric rating": (
        lambda p: prepare(p, p.file("ratings.csv", RATINGS), *RATED),
        2,
        ("ratings.csv, row 3", "'lots'", "'rating'"),
    ),
    "unknown dataset": (lambda p: prepare(p, "ml-2m"), 2, ("'ml-2m'", "Did you mean 'ml-")),
    "unknown model": (lambda p: train(p, "--model", "revae"), 2, ("no model 'revae'", "Did you mean 'recvae'?")),
    "unknown model in a benchmark": (
        lambda p: ["benchmark", p.dataset, "--models", "ease,popularty", "--out", p.out],
        2,
        ("no model 'popularty'", "Did you mean 'popularity'?"),
    ),
    "archive with a wrong hash": (lambda p: bad_zip(p, "wrong hash"), 2, ("ml-100k.zip", "MD5")),
    "truncated archive": (lambda p: bad_zip(p, "truncated"), 2, ("ml-100k.zip", "truncated")),
    "not an archive": (lambda p: bad_zip(p, "not an archive"), 2, ("ml-100k.zip is not a zip archive",)),
    "fewer users than held out": (
        lambda p: prepare(p, p.clicks, *COLUMNS, "--held-out-users", 100),
        2,
        ("200 users", "hold out 100"),
    ),
    "filter that leaves nothing": (
        lambda p: prepare(p, p.clicks, *COLUMNS, "--min-items-per-user", 99),
        2,
        ("leaves nothing of", "at least 99 items per user"),
    ),
    "non-UTF-8 titles": (
        lambda p: prepare(p, p.clicks, *COLUMNS, "--titles", p.file("titles.csv", LATIN)),
        2,
        ("titles.csv is not UTF-8", "line 2"),
    ),
    "unknown split": (lambda p: prepare(p, p.clicks, *COLUMNS, "--split", "strng"), 2, ("Did you mean 'strong'?",)),
    "dataset truncated": (
        lambda p: broken_dataset(p, lambda d: cut(d / "train.indices.npy")),
        2,
        ("train.indices.npy was altered or is truncated",),
    ),
    "dataset altered": (
        lambda p: ["info", broken_dataset(p, lambda d: flip(d / "users.csv"))[1], "--verify"],
        2,
        ("users.csv was altered",),
    ),
    "dataset with another catalogue": (
        lambda p: broken_dataset(p, lambda d: (d / "items.csv").write_text("index,item_id,title\n0,a,\n")),
        2,
        ("items.csv",),
    ),
    "dataset with NaN clicks": (
        lambda p: broken_dataset(p, nan_weights),
        2,
        ("train.npz holds something other than clicks",),
    ),
    "dataset of another version": (
        lambda p: broken_dataset(p, lambda d: edit(d / "manifest.json", format_version=99)),
        2,
        ("manifest.json has format version 99",),
    ),
    "dataset with a file missing": (
        lambda p: broken_dataset(p, lambda d: (d / "test_in.indptr.npy").unlink()),
        2,
        ("test_in.indptr.npy is missing",),
    ),
    "a run for a dataset": (
        lambda p: ["train", p.run, "--model", "ease", "--out", p.out],
        2,
        ("is a run folder", "not a dataset folder"),
    ),
    "a dataset for a run": (lambda p: ["evaluate", p.dataset, p.dataset], 2, ("is a dataset folder, not a run",)),
    "neither a dataset nor a run": (lambda p: ["info", p.folder], 2, ("neither a dataset folder", "nor a run folder")),
    "run truncated": (lambda p: broken_run(p, lambda r: cut(r / "model.safetensors")), 2, ("safetensors", "truncated")),
    "run altered": (lambda p: broken_run(p, lambda r: flip(r / "model.safetensors")), 2, ("safetensors was altered",)),
    "run with other items": (lambda p: broken_run(p, other_item), 2, ("items.csv was altered",)),
    "run with damaged JSON": (lambda p: broken_run(p, lambda r: cut(r / "run.json")), 2, ("run.json is damaged",)),
    "run of another version": (
        lambda p: broken_run(p, lambda r: edit(r / "run.json", format=99)),
        2,
        ("run.json has format version 99",),
    ),
    "run on another catalogue": (other_catalogue, 2, ("ease was trained on another catalogue (clicks)", "other")),
    "unknown option": (
        lambda p: train(p, "--model", "recvae", "--set", "model.latnt=3"),
        2,
        ("model.latnt: unknown option", "Did you mean 'latent'?"),
    ),
    "option out of range": (
        lambda p: train(p, "--model", "recvae", "--set", "model.dropout=1.5"),
        2,
        ("model.dropout: must be less than 1, got 1.5",),
    ),
    "several mistakes": (
        lambda p: train(
            *(p, "--config", p.file("my.toml", 'name = "recvae"\ntypo = 1\nseed = -1\n[model]\nlatent = 0\nbad = 2\n')),
            *("--set", "train.epochs=many"),
        ),
        2,
        ("5 mistakes", "typo", "seed", "model.latent", "model.bad", "train.epochs"),
    ),
    "malformed --set": (lambda p: train(p, "--model", "recvae", "--set", "epochs"), 2, ("--set", "'epochs'")),
    "unknown configuration": (lambda p: train(p, "--config", "ml-20m-recva"), 2, ("Did you mean 'ml-20m-recvae'?",)),
    "broken configuration": (
        lambda p: train(p, "--config", p.file("my.toml", "name = recvae")),
        2,
        ("my.toml is not a TOML file",),
    ),
    "configuration of another model": (
        lambda p: train(p, "--model", "ease", "--config", "ml-20m-recvae"),
        2,
        ("ml-20m-recvae is for 'recvae', not for 'ease'",),
    ),
    "a number of 5,000 digits on the command line": (
        lambda p: train(p, "--model", "ease", "--seed", "9" * 5000),
        2,
        ("--seed",),
    ),
    "a number of 5,000 digits in --set": (
        lambda p: train(p, "--model", "recvae", "--set", f"train.epochs={'9' * 5000}"),
        2,
        ("--set train.epochs cannot be read", "too many digits"),
    ),
    "a number of 4,000 digits in --set": (
        lambda p: train(p, "--model", "recvae", "--set", f"seed={'9' * 4000}"),
        2,
        ("seed: must be a whole number", "999..."),
    ),
    "a whole number of 400 digits for a float": (
        lambda p: train(p, "--model", "ease", "--set", f"model.l2={'9' * 400}"),
        2,
        ("model.l2: must be", "999..."),
    ),
    "more than 64 bits": (
        lambda p: train(p, "--model", "recvae", "--set", "train.epochs=99999999999999999999"),
        2,
        ("train.epochs: must be less than or equal to 9223372036854775807",),
    ),
    "a number of 5,000 digits in a configuration": (
        lambda p: train(p, "--config", p.file("my.toml", f'name = "ease"\nseed = {"9" * 5000}\n')),
        2,
        ("my.toml is not a TOML file", "too many digits"),
    ),
    "a number of 5,000 digits to search": (
        lambda p: ["tune", *train(p, "--model", "ease", "--search", f"model.l2=1,{'9' * 5000}")[1:]],
        2,
        ("--search model.l2 cannot be read", "too many digits"),
    ),
    "a deep configuration": (
        lambda p: train(p, "--config", p.file("my.toml", f'name = "ease"\nx = {"[" * 9999}{"]" * 9999}\n')),
        2,
        ("my.toml is not a TOML file", "nested too deeply"),
    ),
    "a deep value in --set": (
        lambda p: train(p, "--model", "recvae", "--set", f"model.hidden={'[' * 9999}{']' * 9999}"),
        2,
        ("--set model.hidden cannot be read", "nested too deeply"),
    ),
    "a width without end": (
        lambda p: train(p, "--model", "recvae", "--set", "model.latent=10_000_000"),
        2,
        ("model.latent: must be less than or equal to 65536",),
    ),
    "a depth without end": (
        lambda p: train(p, "--model", "mult-vae", "--set", f"model.hidden={[1] * 999}"),
        2,
        ("model.hidden: may have 100 values, and has 999",),
    ),
    "no model": (lambda p: train(p), 2, ("--model", "--config")),
    "k = 0": (lambda p: ["recommend", p.run, "--item", "002", "-k", 0], 2, ("-k", "at least 1", "0")),
    "k = 0 for similar": (lambda p: ["similar", p.run, "--item", "002", "-k", 0], 2, ("at least 1",)),
    "metric with k = 0": (lambda p: ["evaluate", p.run, p.dataset, "--metrics", "ndcg@0"], 2, ("ndcg@0", "at least 1")),
    "unknown metric": (
        lambda p: ["evaluate", p.run, p.dataset, "--metrics", "ndgc@10"],
        2,
        ("'ndgc'", "Did you mean 'ndcg'?"),
    ),
    "unknown split to evaluate": (
        lambda p: ["evaluate", p.run, p.dataset, "--split", "tset"],
        2,
        ("'tset'", "Did you mean 'test'?"),
    ),
    "unknown item": (
        lambda p: ["similar", p.run, "--item", "Toy Tory"],
        2,
        ("'Toy Tory'", "Did you mean 'Toy Story"),
    ),
    "ambiguous title": (lambda p: ["similar", p.run, "--item", "toy"], 2, ("Toy Story (1995)", "Toy Story 2 (1999)")),
    "neither histories nor items": (lambda p: ["recommend", p.run], 2, ("--histories", "--item")),
    "unknown kind of output": (
        lambda p: ["recommend", p.run, "--item", "002", "--out", p.folder / "lists.xlsx"],
        2,
        ("lists.xlsx", ".parquet, .csv, .jsonl"),
    ),
    "output exists": (existing_file, 2, ("out exists already", "--overwrite")),
    "output is another kind of folder": (
        lambda p: [*existing_file(p), "--overwrite"],
        2,
        ("out has no run.json, so it is not replaced",),
    ),
    "dataset cannot be written": (lambda p: under_a_file(p, "prepare"), 1, ("Cannot write", "plain.txt is a file")),
    "run cannot be written": (lambda p: under_a_file(p, "recvae"), 1, ("Cannot write", "plain.txt")),
    "lists cannot be written": (lambda p: under_a_file(p, "recommend"), 1, ("Cannot write", "plain.txt")),
    "no GPU": (lambda p: train(p, "--model", "recvae", "--device", "cuda"), 2, ("'cuda'", "--device cpu")),
    "unknown device": (lambda p: train(p, "--model", "recvae", "--device", "gpu"), 2, ("'gpu'", "--device cpu")),
}
