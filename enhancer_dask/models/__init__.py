"""Models of expression on chromatin graphs (PyTorch). Reads graph shards only.

Names are loaded when first used: torch is an optional extra and slow to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enhancer_dask.models.registry import build as build

_WHERE = {"build": "enhancer_dask.models.registry"}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
