"""Lightning without what it says and does to the process around it."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from enhancer_dask.errors import InputError

try:
    import torch
except ImportError as err:
    raise InputError(f"{err.name} is missing: pip install 'enhancer-dask[gnn]'") from err

LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning")
# what the processes of a training are told in, and what stays in the first of them
PROCESS_VARIABLES = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ONE_AT_A_TIME = threading.RLock()  # torch has one stream of random numbers for all threads


def is_first_process() -> bool:
    """Whether this is the process that started the others of a training, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


class _Stopped(BaseException):
    """Ctrl-C under a name that Lightning does not catch: it would end the process."""


@contextmanager
def alone(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed; those of the caller go on afterwards as if nothing had been."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """So many threads for torch's arithmetic on the CPU for a while; None: as it is.

    Small models are quicker on one: theirs are many short operations, and threads that wait for each other on a busy
    machine take a hundred times as long.
    """
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """No chatter, no warnings for those who write loops themselves, no new variables, and a Ctrl-C that is one."""
    kept = {name: os.environ.get(name) for name in PROCESS_VARIABLES}
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _own_interrupt():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_interrupt() -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def stop(*_: Any) -> None:
        raise _Stopped

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    except _Stopped:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
