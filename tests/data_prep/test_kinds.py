"""What a file is: packed text is read, other kinds and other encodings are named, and bombs are refused in time."""

import bz2
import gzip
import io
import lzma
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from data_prep import read_interactions, read_titles, streams
from data_prep.lines import read_lines
from data_prep.sources import RELEASES, locate
from data_prep.streams import ByteSource
from recvae.errors import DataError

TEXT = "u,i\n" + "".join(f"{n},{n % 7}\n" for n in range(5000))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue())


def tar(data: bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        about = tarfile.TarInfo("x.csv")
        about.size = len(data)
        archive.addfile(about, io.BytesIO(data))
    return sink.getvalue()


def feather(data: bytes) -> bytes:
    sink = io.BytesIO()
    pd.read_csv(io.BytesIO(data)).to_feather(sink)
    return sink.getvalue()


def write(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_files_are_read(tmp_path, suffix):
    path = write(tmp_path, f"x.csv.{suffix}", PACKED[suffix](TEXT.encode()))
    data = read_interactions(path, "u", "i")
    assert len(data) == 5000
    assert ByteSource(path).name == "x.csv"
    assert len(read_titles(path).titles) == 5001
    path = write(tmp_path, f"x.txt.{suffix}", PACKED[suffix](b"1 2 3\n"))
    assert len(read_lines(path)) == 2
    cut = path.read_bytes()[:-6]
    with pytest.raises(DataError, match=r"x\.txt.*is truncated or damaged"):
        read_lines(write(tmp_path, f"x.txt.{suffix}", cut))


KINDS = {
    "feather": (feather(TEXT.encode()), "is a Feather (Arrow) file. Save it as CSV or Parquet."),
    "tar": (tar(b"u,i\n1,2\n"), "is a tar archive. Unpack it."),
    "sqlite": (b"SQLite format 3\x00" + bytes(90), "is an SQLite database"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), "is an Excel file of the old kind"),
    "pickle": (b"\x80\x05\x95\x00", "is a Python pickle"),
    "json lines": (b'{"u": 1, "i": 2}\n' * 9, "is JSON"),
    "web page": (b"<!DOCTYPE html>\n<html>", "is a web page"),
    "UTF-16": (TEXT.encode("utf-16"), "iconv -f utf-16 -t utf-8 OLD > NEW"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), "iconv -f utf-16le -t utf-8 OLD > NEW"),
    "UTF-16, the other way": (TEXT.encode("utf-16-be"), "iconv -f utf-16be -t utf-8 OLD > NEW"),
    "UTF-32": (TEXT.encode("utf-32"), "iconv -f utf-32 -t utf-8 OLD > NEW"),
    "garbage": (np.random.default_rng(0).bytes(50_000), "is not text but a binary file of a kind that is not known"),
    "zeros": (bytes(50_000), "is not text but a binary file"),
    "latin-1": (b"u,i\ncaf\xe9,1,2\n1,2,3\n1,2\n", "x.csv"),
    "latin-1 header": (b"u,i,\xe9\n1,2,3\n", "is not UTF-8 text (in the header)"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_are_named_in_one_sentence(tmp_path, kind):
    content, said = KINDS[kind]
    path = write(tmp_path, "x.csv", content)
    with pytest.raises(DataError) as error:  # a traceback beside it, of a callback that failed, would fail this test
        read_interactions(path, "u", "i")
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    if not kind.startswith("latin"):
        with pytest.raises(DataError, match=r"x\.csv is"):
            read_titles(path)


@pytest.mark.parametrize("suffix", PACKED)
def test_a_bomb_is_refused_before_it_has_unpacked(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(streams, "_ALWAYS", 1 << 20)
    rows = 1_000_000 if suffix == "bz2" else 8_000_000  # bzip2 is slow at what repeats
    path = write(tmp_path, f"x.csv.{suffix}", PACKED[suffix](b"u,i\n" + b"1,2\n" * rows))
    readers = (read_titles, lambda path: read_interactions(path, "u", "i"), read_lines)
    for read in readers if suffix == "gz" else readers[:1]:
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=r"x\.csv.* unpacks to more than .* bytes, 50 times its size or more"):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 25_000_000
        finally:
            time.sleep(0.1)  # for Arrow's threads: CPython may crash where one allocates while tracing stops
            tracemalloc.stop()


def test_what_packs_well_by_nature_is_read(tmp_path):
    path = write(tmp_path, "x.csv.gz", gzip.compress(b"u,i\n" + b"1,2\n" * 1_000_000))  # 1,000 times, and small
    assert len(read_interactions(path, "u", "i")) == 1_000_000


def test_a_member_of_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "_ALWAYS", 1 << 20)
    with zipfile.ZipFile(tmp_path / "ml-latest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n")
        archive.writestr("ml/movies.csv", b"movieId,title\n" + b"1,A\n" * 8_000_000)
    found = locate(RELEASES["ml-latest"], tmp_path / "ml-latest.zip")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"ml/movies\.csv in .*ml-latest\.zip unpacks to more than"):
            found.titles()
        assert tracemalloc.get_traced_memory()[1] < 25_000_000
    finally:
        tracemalloc.stop()


def test_rows_of_titles_are_not_kept(tmp_path):
    path = write(tmp_path, "titles.csv.gz", gzip.compress(b"1,A\n" * 200_000))
    tracemalloc.start()
    try:
        assert read_titles(path).titles == {"1": "A"}
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
