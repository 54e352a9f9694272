"""Groups of runs that fit: how many a device takes side by side, by what XLA says they need.

A program takes a device's runs group by group where they don't all fit (``vmap_size``): the states
of all of them lie in the device's memory, the work of one group beside them. XLA says of a compiled
program what it needs. Where that is not known, or was too little, memory runs out, and the group is
halved.

A CPU shares the host's memory, and its runs go one after another; nothing is chosen for it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from digits_jax.parallel.processes import gather_values, spans_job

logger: logging.Logger = logging.getLogger("digits_jax")

SHARE = 0.92  # of a device's memory: what a program may need by XLA's count, which knows no gaps


class OutOfMemory(MemoryError):
    """The runs don't fit in a device's memory, however they are grouped; says how many do."""


def device_limit(devices: Sequence[jax.Device]) -> int | None:
    """Bytes of its own memory that a program may need on each device; None where there is none.

    It doesn't depend on what is in use, so that a resumed training has the same groups. Of the
    devices of a job it is the least of any, which all processes must ask for at once.
    """
    if devices[0].platform == "cpu":
        return None
    here = [device for device in devices if device.process_index == jax.process_index()]
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in here]
    least = min(limits) >> 20
    if spans_job(devices):  # in MiB, which an int32 counts
        least = int(gather_values(np.array(least, np.int32)).min())
    return int(SHARE * (least << 20)) or None


def needed_bytes(program: Any) -> int:
    """What a compiled program needs on each device while it runs, its arguments included."""
    memory = program.memory_analysis()
    return int(
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA ran out of a device's memory, compiling or running."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


class Groups:
    """A program of a device's runs, in the largest groups that fit.

    Args:
        compile: ``compile(size)`` gives the program with groups of that size; None: all runs.
        size: to begin with; None: all runs.
        lanes: runs of a device.
        limit: see ``device_limit``.
        what: the program does, for messages.
        together: several processes run it: then what one of them meets changes nothing, since the
            others would not follow.

    Attributes:
        size: of the groups now; None: all runs.
    """

    def __init__(
        self,
        compile: Callable[[int | None], Any],
        *,
        size: int | None,
        lanes: int,
        limit: int | None,
        what: str,
        together: bool = False,
    ) -> None:
        self.size = size
        self._compile = compile
        self._lanes = lanes
        self._limit = limit
        self._what = what
        self._together = together
        self._fitting: Any = None

    def program(self) -> Any:
        """The program, in groups that fit by XLA's count.

        Raises:
            OutOfMemory: a single run beside the states of all doesn't fit.
        """
        while self._fitting is None:
            try:
                program = self._compile(self.size)
            except jax.errors.JaxRuntimeError as error:
                self._halve(error)
                continue
            if self._limit is None or needed_bytes(program) <= self._limit:
                self._fitting = program
                break
            self._shrink(program, self._limit)
        return self._fitting

    def __call__(self, *arguments: Any, again: Callable[[], tuple[Any, ...]] | None = None) -> Any:
        """Runs the program and waits for it; where memory runs out, in groups of half the size.

        Args:
            *arguments: of the program.
            again: gives the first of them anew, those that the program consumes.

        Raises:
            OutOfMemory: a single run beside the states of all doesn't fit.
        """
        while True:
            try:
                return jax.block_until_ready(self.program()(*arguments))
            except jax.errors.JaxRuntimeError as error:
                self._halve(error)
            if again is not None:
                renewed = again()
                arguments = (*renewed, *arguments[len(renewed) :])

    def _halve(self, error: jax.errors.JaxRuntimeError) -> None:
        """Half the group, where memory ran out; raises where that is no way out."""
        size = self._now()
        if not is_out_of_memory(error):
            raise error
        if size == 1 or self._together:
            raise OutOfMemory(
                f"out of memory: {self._what} of {self._lanes} runs a device in groups of {size} "
                "does not fit; give fewer runs, more devices, or train_in_waves a wave_size"
            ) from error
        self._take(size // 2, "memory ran out")

    def _now(self) -> int:
        return self._lanes if self.size is None else min(self.size, self._lanes)

    def _shrink(self, program: Any, limit: int) -> None:
        """As many side by side as fit, if each takes an equal part of the temporary memory."""
        size, needed = self._now(), needed_bytes(program)
        work = program.memory_analysis().temp_size_in_bytes
        left = limit - (needed - work)
        if size == 1 or left <= 0:
            fit = int(self._lanes * limit / needed)
            raise OutOfMemory(
                f"out of memory: {self._what} of {self._lanes} runs a device needs "
                f"{needed / 1e9:.2f} GB, and there are {limit / 1e9:.2f}; about {fit} runs a "
                "device fit: give fewer, more devices, or train_in_waves(..., wave_size=)"
            )
        self._take(min(int(size * left / work), size - 1), f"{needed / 1e9:.2f} GB don't fit")

    def _take(self, most: int, why: str) -> None:
        self.size, self._fitting = even_group(self._lanes, most), None
        logger.warning(
            "%s: %s of the %d runs of a device goes in groups of %d",
            why,
            self._what,
            self._lanes,
            self.size,
        )


def even_group(lanes: int, most: int) -> int:
    """Runs of a group, at most so many: as few groups as can be, and as even.

    A last group of another size would be compiled beside the others, so that a size that divides
    the runs is taken if it costs no more than a third of the group.
    """
    most = max(1, min(most, lanes))
    for size in range(most, max(1, math.ceil(most * 2 / 3)) - 1, -1):
        if lanes % size == 0:
            return size
    return math.ceil(lanes / math.ceil(lanes / most))
