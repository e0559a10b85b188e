"""Order, draws, sources, loaders."""
