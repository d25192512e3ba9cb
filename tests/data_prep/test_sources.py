import dataclasses
import functools
import hashlib
import http.server
import threading
import zipfile

import pytest

import data_prep.sources as sources
from data_prep import RELEASES, find_release, prepare
from data_prep.sources import download, locate
from recvae.errors import DataError, InputError, WorkError

N = 40


def rows(separator):
    clicks = [(user, item) for user in range(1, N) for item in range(user % 3, 9)]
    return "".join(separator.join(map(str, (user, item, 5, 1000 + item))) + "\n" for user, item in clicks)


FILES = {
    "ml-100k": {
        "ml-100k/u.data": rows("\t").encode(),
        "ml-100k/u.item": "1|Caf\u00e9 (1990)|01-Jan-1990||http://x|0|1|1\n2|B|||http|1|0|0\n".encode("latin-1"),
        "ml-100k/u.genre": b"unknown|0\nAction|1\nDrama|2\n\n",
        "ml-100k/u.user": b"1|24|M|technician|85711\n",
    },
    "ml-1m": {
        "ml-1m/ratings.dat": rows("::").encode(),
        "ml-1m/movies.dat": "1::Caf\u00e9 (1990)::Action|Drama\n2::B::unknown\n".encode("latin-1"),
        "ml-1m/users.dat": b"1::M::24::7::85711\n",
    },
    "ml-10m": {
        "ml-10M100K/ratings.dat": rows("::").encode(),
        "ml-10M100K/movies.dat": "1::Caf\u00e9 (1990)::Action|Drama\n2::B::unknown\n".encode(),
    },
    "ml-latest-small": {
        "__MACOSX/x/y/ratings.csv": b"junk",
        "ml-latest-small/ratings.csv": ("userId,movieId,rating,timestamp\n" + rows(",")).encode(),
        "ml-latest-small/movies.csv": 'movieId,title,genres\n1,"Caf\u00e9 (1990)",Action|Drama\n2,B,unknown\n'.encode(),
    },
}


def make_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def local_release(tmp_path, monkeypatch):
    """Make a known dataset's archive here, and let the table know its hash."""

    def make(name):
        path = make_zip(tmp_path / f"{name}.zip", FILES[name])
        if RELEASES[name].md5 is not None:
            md5 = hashlib.md5(path.read_bytes()).hexdigest()
            monkeypatch.setitem(sources.RELEASES, name, dataclasses.replace(RELEASES[name], md5=md5))
        return path

    return make


@pytest.mark.parametrize("name", FILES)
def test_every_form_is_read_from_archive_and_folder(name, local_release, tmp_path):
    archive = local_release(name)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "unpacked")
    places = [archive, tmp_path / "unpacked" / next(iter(FILES[name])).split("/")[0]]
    if name != "ml-latest-small":
        places.append(tmp_path / "unpacked")
    else:
        places[1] = tmp_path / "unpacked" / name
    hashes = set()
    for place in places:
        data = prepare(name, source=place, held_out_users=5, split="strong")
        data.verify()
        hashes.add(data.vocabulary_hash)
        titles = dict(zip(data.item_ids, data.item_titles, strict=True))
        assert titles["1"] == "Caf\u00e9 (1990)"
        assert data.item_tags["1"] == ("Action", "Drama")
        assert data.item_tags["2"] == ("unknown",)
        if RELEASES[name].users:
            assert data.user_tags["1"]["age"] == "24"
            assert data.user_tags["1"]["zip_code"] == "85711"
        assert prepare(name, source=place, split="last-out").n_users("test") == N - 1
    assert len(hashes) == 1
    assert data.manifest["source"]["sha256"]


def test_archives_that_are_not_the_published_one(tmp_path):
    other = make_zip(tmp_path / "ml-1m.zip", FILES["ml-1m"])
    with pytest.raises(DataError, match=r"is not the published ml-1m\.zip: its MD5 is [0-9a-f]{32}, not c4d9"):
        locate(RELEASES["ml-1m"], other)
    other.write_bytes(other.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated or damaged zip archive"):
        locate(RELEASES["ml-1m"], other)
    other.write_text("hello")
    with pytest.raises(DataError, match="is not a zip archive"):
        locate(RELEASES["ml-1m"], other)
    with pytest.raises(InputError, match="There is no file or folder"):
        locate(RELEASES["ml-1m"], tmp_path / "none.zip")


def test_members_that_are_missing_or_damaged(tmp_path):
    release = RELEASES["ml-latest-small"]
    empty = make_zip(tmp_path / "a.zip", {"x/readme.txt": b"x"})
    with pytest.raises(DataError, match=r"a\.zip is not ml-latest-small: it has no ratings\.csv"):
        locate(release, empty).ratings()
    with pytest.raises(DataError, match=r"is not ml-1m: it has no ratings\.dat or ratings\.csv"):
        locate(RELEASES["ml-1m"], tmp_path).ratings()
    good = make_zip(tmp_path / "b.zip", FILES["ml-latest-small"])
    content = bytearray(good.read_bytes())
    place = content.find(b"ml-latest-small/ratings.csv") + 40
    content[place : place + 8] = b"\0" * 8
    good.write_bytes(content)
    with pytest.raises(DataError, match=r"ratings\.csv in .*b\.zip is truncated or damaged"):
        prepare("ml-latest-small", source=good)


def test_the_table():
    assert list(RELEASES) == [
        *("ml-100k", "ml-1m", "ml-10m", "ml-20m", "ml-25m", "ml-32m", "ml-latest-small", "ml-latest"),
    ]
    for name, release in RELEASES.items():
        assert release.url == f"https://files.grouplens.org/datasets/movielens/{name}.zip"
        assert release.md5 is None if "latest" in name else len(release.md5) == 32
    assert find_release("ML-20M") is RELEASES["ml-20m"]
    with pytest.raises(InputError, match=r"no dataset or file 'ml20m'; known datasets are .* Did you mean 'ml-20m'\?"):
        find_release("ml20m")


@pytest.fixture
def server(tmp_path):
    root = tmp_path / "www"
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield root, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_download(server, tmp_path, monkeypatch):
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    root, base = server
    archive = make_zip(root / "ml-latest-small.zip", FILES["ml-latest-small"])
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    url = f"{base}ml-latest-small.zip"
    changing = dataclasses.replace(RELEASES["ml-latest-small"], url=url)
    fixed = dataclasses.replace(changing, md5=md5)
    calls = []
    path = download(fixed, cache=tmp_path / "cache", progress=lambda *call: calls.append(call))
    assert path.read_bytes() == archive.read_bytes()
    size = archive.stat().st_size
    assert calls[-1] == ("download ml-latest-small.zip", size, size)
    assert locate(fixed, cache=tmp_path / "cache").ratings()[1].member == "ml-latest-small/ratings.csv"

    with pytest.raises(WorkError, match=r"ml-latest-small\.zip\.md5 could not be downloaded.*--source"):
        download(changing, cache=tmp_path / "new")
    (root / "ml-latest-small.zip.md5").write_text("none")
    with pytest.raises(WorkError, match="does not hold an MD5 sum"):
        download(changing, cache=tmp_path / "new")
    (root / "ml-latest-small.zip.md5").write_text(f"MD5 (ml-latest-small.zip) = {md5.upper()}\n")
    assert download(changing, cache=tmp_path / "new").exists()

    wrong = dataclasses.replace(fixed, md5="0" * 32)
    with pytest.raises(WorkError, match="arrived damaged: its MD5 is not the published one"):
        download(wrong, cache=tmp_path / "wrong")
    assert not list((tmp_path / "wrong").iterdir())
    gone = dataclasses.replace(fixed, url=f"{base}gone.zip")
    with pytest.raises(WorkError, match=r"gone\.zip could not be downloaded"):
        download(gone, cache=tmp_path / "wrong")
