"""Errors that a user can act on: each message is one line and names the file, key or column.

The command line prints the message and ends with ``exit_code``; a traceback means a defect of ours.
"""

from __future__ import annotations


def first_line(err: BaseException) -> str:
    """What a library says is wrong, for a message of ours: the kind of the error and the first line of its text.

    Examples
    --------
    >>> first_line(KeyError("x")), first_line(EOFError())
    ("KeyError: 'x'", 'EOFError')
    """
    return ": ".join([type(err).__name__, *str(err).splitlines()[:1]])


class EnhancerDaskError(Exception):
    """Base of all errors with a message meant for users."""

    exit_code = 1


class InputError(EnhancerDaskError, ValueError):
    """An input file, table or argument is not what was expected."""

    exit_code = 2


class StoreError(EnhancerDaskError):
    """A store or a table of ours is missing, damaged or of another schema version."""

    exit_code = 3


class ResumeError(EnhancerDaskError):
    """Finished work was made with other parameters or from another store."""

    exit_code = 4


class ChunkError(EnhancerDaskError):
    """Some chunks failed; the others are finished and kept."""

    exit_code = 5


class ClusterError(EnhancerDaskError):
    """Workers cannot be had, or they are not like the driver (other package versions)."""

    exit_code = 6


class NoBalanceError(InputError):
    """No Knight-Ruiz weights exist for a matrix, or none that can be found."""
