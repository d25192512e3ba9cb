"""Preparing clicks that are larger than memory: DuckDB encodes and sorts them, and the split goes user by user.

:func:`data_prep.large.prepare.prepare_large` writes, byte for byte, the folder that :func:`data_prep.prepare` makes.
"""
