"""Wait for what another process does."""

import time


def wait_for(condition, seconds=100):
    """Wait until a condition holds; fail after some time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
