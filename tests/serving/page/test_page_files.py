"""The page's files: small, complete, without anything inline, and nowhere a request to another place."""

import re
from importlib.resources import files

FOLDER = files("recvae.serving") / "page"
FILES = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
MOST = 60_000  # bytes of all files


def test_the_page_is_small():
    assert sum(len(text.encode()) for text in FILES.values()) < MOST


def test_nothing_is_inline():
    """The policy that the page is served under would stop it."""
    page = FILES["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page)


def test_every_file_is_used_and_there():
    named = set(re.findall(r'(?:href|src)="page/([^"]+)"', FILES["index.html"]))
    for text in FILES.values():
        named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named == set(FILES) - {"index.html"}


def test_addresses_are_relative_so_that_a_proxy_may_put_the_page_anywhere():
    for name, text in FILES.items():
        absolute = re.findall(r'(?:href|src)="(/[^"]*)"|"(/(?:v1|page)[^"]*)"', text)
        assert not absolute, name
        elsewhere = set(re.findall(r"https?://[^'\" )]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not elsewhere, name


def test_no_text_is_ever_read_as_html():
    for name, text in FILES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser", text), name
