"""FFCV's file format: read, written, verified, decoded."""
