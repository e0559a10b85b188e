"""The training engine: all code that uses Lightning's internals, and the start of the ranks."""
