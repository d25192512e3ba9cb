"""Ranking metrics and evaluation protocols for held-out clicks. Needs numpy and scipy only."""
