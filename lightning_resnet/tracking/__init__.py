"""Weights & Biases: what is written there, and what is read back."""
