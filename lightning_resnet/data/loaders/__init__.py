"""Loaders: the same batches from arrays, files, .beton files or the device's memory."""
