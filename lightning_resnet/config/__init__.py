"""The configuration: from recipes and flags to the objects of a run."""
