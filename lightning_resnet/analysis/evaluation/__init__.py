"""Accuracy of one checkpoint, in every way that figures are published; and predictions."""
