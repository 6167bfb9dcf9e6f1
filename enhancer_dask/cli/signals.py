"""Signals that stop a command, and output whose reader is gone."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any

READER_GONE = (errno.EPIPE, errno.EIO)  # a closed pipe, a lost terminal


class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a lost terminal, under a name that no library catches on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted ({signal.Signals(number).name})")
        self.exit_code = 128 + number


def raise_on_signals() -> None:
    """Raise :class:`Interrupted` at the first signal; a second one leaves the clean-up alone, a third ends it."""
    received: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) != 2:
            raise Interrupted(number)
        with suppress(OSError):
            os.write(2, b"cleaning up; once more to give up\n")  # print could meet itself in a handler

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, interrupt)


class _Output(io.FileIO):
    """Standard output or error; when its reader is gone, what is written is dropped and the work goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as err:
            if self.fileno() != 2 and err.errno not in READER_GONE:  # a full disk loses a result, not a message
                raise
            return len(data)


def outlive_readers() -> None:
    """Let no lost terminal, closed pipe or closed descriptor stop a command."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file opened would get its number, and everybody's messages
            os.open(os.devnull, os.O_RDWR)
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.BufferedWriter(_Output(number, "w", closefd=False))
        encoding = getattr(getattr(sys, name), "encoding", None)
        at_once = number == 2 or raw.isatty()
        setattr(sys, name, io.TextIOWrapper(raw, encoding, errors="backslashreplace", line_buffering=at_once))
