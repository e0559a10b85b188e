"""Errors a user can cure: the command line prints their one line and exits 2 (no traceback)."""


class UserError(Exception):
    """What is wrong and how to cure it, in one line."""
