"""The library with one thing changed, to see what a change is worth before it is made.

Each changes the imported library in place; call it before anything is compiled.

    cpu-forms  convolutions, pools and dense layers as a CPU is fast in
    gpu-forms  convolutions as batched matrix products, pools unrolled
    xla-forms  networks as they are written, in XLA's own convolutions
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import library


def apply(names: Iterable[str]) -> None:
    """Makes the changes of those names."""
    for name in names:
        CHANGES[name]()


CHANGES: dict[str, Callable[[], None]] = {
    "cpu-forms": functools.partial(library.use_forms, "cpu"),
    "gpu-forms": functools.partial(library.use_forms, "gpu"),
    "xla-forms": functools.partial(library.use_forms, "none"),
}
