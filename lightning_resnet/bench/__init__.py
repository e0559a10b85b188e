"""Benchmarks: our parts and their peers on the same input, in turn; medians, as Markdown tables."""
