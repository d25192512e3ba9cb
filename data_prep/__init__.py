"""From ratings files to prepared datasets: readers, filters, splits and the dataset folder.

The public names are imported on first use (PEP 562), so that ``import data_prep`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.dataset import Dataset
    from data_prep.given_split import prepare_given, split_given
    from data_prep.interactions import Interactions
    from data_prep.large.prepare import prepare_large
    from data_prep.log import ClickLog, read_log
    from data_prep.pipeline import filter_interactions, prepare
    from data_prep.readers import column_names, read_ids, read_interactions
    from data_prep.sources import RELEASES, Release, find_release
    from data_prep.splits import SPLIT_METHODS, Split, make_split
    from data_prep.synthetic import Sample, ml20m_shape, planted_scores, sample
    from data_prep.time_split import TimeRules, split_by_time
    from data_prep.titles import Titles, read_titles, read_user_tags

_HOME = {
    "ClickLog": "log",
    "Dataset": "dataset",
    "Interactions": "interactions",
    "RELEASES": "sources",
    "Release": "sources",
    "SPLIT_METHODS": "splits",
    "Sample": "synthetic",
    "Split": "splits",
    "TimeRules": "time_split",
    "Titles": "titles",
    "column_names": "readers",
    "filter_interactions": "pipeline",
    "find_release": "sources",
    "make_split": "splits",
    "ml20m_shape": "synthetic",
    "planted_scores": "synthetic",
    "prepare": "pipeline",
    "prepare_given": "given_split",
    "prepare_large": "large.prepare",
    "read_ids": "readers",
    "read_interactions": "readers",
    "read_log": "log",
    "read_titles": "titles",
    "read_user_tags": "titles",
    "sample": "synthetic",
    "split_by_time": "time_split",
    "split_given": "given_split",
}

__all__ = [
    "RELEASES",
    "SPLIT_METHODS",
    "ClickLog",
    "Dataset",
    "Interactions",
    "Release",
    "Sample",
    "Split",
    "TimeRules",
    "Titles",
    "column_names",
    "filter_interactions",
    "find_release",
    "make_split",
    "ml20m_shape",
    "planted_scores",
    "prepare",
    "prepare_given",
    "prepare_large",
    "read_ids",
    "read_interactions",
    "read_log",
    "read_titles",
    "read_user_tags",
    "sample",
    "split_by_time",
    "split_given",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'data_prep' has no attribute '{name}'")
    value: object = getattr(import_module(f"data_prep.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
