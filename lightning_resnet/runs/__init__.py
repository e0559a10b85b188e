"""The run directory: its id, its files, its status."""
