"""Compiles programs in other threads; one that equals an earlier one is compiled once."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh


class Compiling:
    """A program that XLA compiles in another thread; a call waits for it."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def __call__(self, *arguments: Any) -> Any:
        """Runs the program."""
        return self._future.result()(*arguments)

    def executable(self) -> Any:
        """The compiled program, as ``jax.stages.Compiled``."""
        return self._future.result()


_EXECUTABLES: dict[Any, Compiling] = {}  # by digest and tree of the program, the oldest first
_KEPT = 48  # of them
_COMPILERS = ThreadPoolExecutor(3, "compile")  # XLA compiles outside of Python's lock


def compiled(lowered: Any, mesh: Mesh, options: dict[str, Any] | None = None) -> Compiling:
    """The executable of a lowered program; an equal program is compiled once.

    So a lambda that is made anew, whose recipe is another one for Python, compiles nothing anew.
    """
    devices = [(device.platform, device.id) for device in mesh.devices.flat]
    content = f"{devices} {options}\n{lowered.as_text()}"
    digest = hashlib.sha256(content.encode()).hexdigest()
    # An argument that the program does not use is not in its text, but is checked at each call.
    arguments = tuple(map(str, jax.tree.leaves(lowered.in_avals)))
    key = digest, arguments, lowered.in_tree, lowered.out_tree
    if key not in _EXECUTABLES:
        while len(_EXECUTABLES) >= _KEPT:
            _EXECUTABLES.pop(next(iter(_EXECUTABLES)))
        _EXECUTABLES[key] = Compiling(_COMPILERS.submit(lowered.compile, options))
    return _EXECUTABLES[key]
