"""Evaluation: ranking metrics, the protocol that applies them, and their uncertainty. NumPy and SciPy only."""

from eval.backtest import SEEN, Questions, Replay, Window, answers_to, seen_group, windows_of
from eval.list_sets import ListCounts
from eval.metrics import (
    LIST_SET,
    PER_USER,
    MetricName,
    parse_metric,
    parse_metrics,
    per_user_metrics,
)
from eval.protocols import DEFAULT_METRICS, Evaluation, Ranker, evaluate, validator
from eval.ratings import RatingPredictor, rating_errors, rating_metrics, ratings_validator
from eval.significance import Comparison, Metric, bootstrap_interval, compare, resampled_means, summarize

__all__ = [
    "DEFAULT_METRICS",
    "LIST_SET",
    "PER_USER",
    "SEEN",
    "Comparison",
    "Evaluation",
    "ListCounts",
    "Metric",
    "MetricName",
    "Questions",
    "Ranker",
    "RatingPredictor",
    "Replay",
    "Window",
    "answers_to",
    "bootstrap_interval",
    "compare",
    "evaluate",
    "parse_metric",
    "parse_metrics",
    "per_user_metrics",
    "rating_errors",
    "rating_metrics",
    "ratings_validator",
    "resampled_means",
    "seen_group",
    "summarize",
    "validator",
    "windows_of",
]
