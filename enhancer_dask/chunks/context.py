"""What a command tells the runs inside it, however deep they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_RECORDED: ContextVar[tuple[list[str], str]] = ContextVar("recorded", default=([], ""))
_ONLY_FAILED: ContextVar[bool] = ContextVar("only_failed", default=False)


@contextmanager
def recorded(command: list[str], folder: str) -> Iterator[None]:
    """Runs inside note this command and its current folder in their journals, so that it can be repeated."""
    token = _RECORDED.set((command, folder))
    try:
        yield
    finally:
        _RECORDED.reset(token)


@contextmanager
def only_failed() -> Iterator[None]:
    """Runs inside compute only the chunks that failed before; work that never began is computed as usual."""
    token = _ONLY_FAILED.set(True)
    try:
        yield
    finally:
        _ONLY_FAILED.reset(token)


def command() -> tuple[list[str], str]:
    """The command and its folder; empty if there is none."""
    return _RECORDED.get()


def wants_only_failed() -> bool:
    """Whether this is inside :func:`only_failed`."""
    return _ONLY_FAILED.get()
