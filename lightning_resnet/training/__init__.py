"""ClassificationTask and its parts.

The parts are loss, optimizer groups, schedules, moving average, mixing, hooks and callbacks.
"""
