"""Configurations measured on datasets: train, compare, search, blend, refit, diagnose."""
