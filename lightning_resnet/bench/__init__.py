"""Benchmarks: our parts beside their peers on the same input, in turn; medians, as one Markdown table per kind."""
