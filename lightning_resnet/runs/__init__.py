"""Run directory: id, files and status of a run."""
