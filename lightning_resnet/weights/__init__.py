"""Weights from and to files: trained nets, foreign layouts, ONNX."""
