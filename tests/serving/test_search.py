"""Items are found by what people type."""

import pytest

from recvae.serving.search import Search

TITLES = ["Matrix, The (1999)", "Matrix Reloaded, The (2003)", "Amélie (2001)", "The Mask (1994)", "Unmasked (1917)",
          "", "Toy Story 2 (1999)", "Toy Story (1995)", "ÆON FLUX", "Mask (1985)"]  # fmt: skip
IDS = ["2571", "6365", "4973", "367", "1", "mask", "3114", "10", "9", "11"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the matrix", [0]),
        ("matrix", [0, 1]),
        ("  MATRIX  reloaded ", [1]),
        ("reloaded matrix", [1]),
        ("amelie", [2]),
        ("Amélie", [2]),
        ("mask", [5, 9, 3, 4]),
        ("toy story", [7, 6]),
        ("toy 2", [6]),
        ("1", [4, 9, 3, 7, 0, 6, 2]),
        ("2571", [0]),
        ("(1999)", [0, 6]),
        ("nothing such", []),
        ("æon", [8]),
    ],
)
def test_the_best_matches_come_first(text, found):
    columns, total = Search(IDS, TITLES).find(text, 100)
    assert columns[: len(found)] == found
    assert total == len(columns)


def test_without_a_text_everything_is_found_and_a_limit_limits():
    search = Search(IDS, TITLES)
    assert search.find("", 3) == ([0, 1, 2], 10)
    assert search.find("mask", 2) == ([5, 9], 4)
    assert search.find("x" * 1000, 2) == ([], 0)
