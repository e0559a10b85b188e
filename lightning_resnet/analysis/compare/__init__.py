"""Runs -> DataFrames -> tables and figures: pure, and without torch."""
