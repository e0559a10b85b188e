"""Watch a function of a module or class while it goes on working."""

from typing import NamedTuple


class Call(NamedTuple):
    args: tuple
    result: object


def spy(monkeypatch, owner, name):
    """Return a list to which each call of `owner.name` is added when it returns."""
    function, calls = getattr(owner, name), []

    def watched(*args, **options):
        calls.append(Call(args, function(*args, **options)))
        return calls[-1].result

    monkeypatch.setattr(owner, name, watched)
    return calls
