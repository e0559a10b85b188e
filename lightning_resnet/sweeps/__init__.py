"""Sweeps: their points, their state, and how they run here or on SLURM."""
