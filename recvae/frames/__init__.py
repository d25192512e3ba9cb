"""Data frames of any library, and the ids in their columns."""
