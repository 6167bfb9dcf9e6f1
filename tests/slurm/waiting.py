"""Waiting for what happens in other processes."""

from __future__ import annotations

import time


def wait_until(condition, timeout: float, what: str):
    """Wait for something true and return it."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.2)
    return value
