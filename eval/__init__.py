"""Evaluation: ranking metrics, the protocol that applies them, and their uncertainty. NumPy and SciPy only."""

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
    "Comparison",
    "Evaluation",
    "ListCounts",
    "Metric",
    "MetricName",
    "Ranker",
    "RatingPredictor",
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
    "summarize",
    "validator",
]
