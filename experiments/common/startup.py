"""JAX as the scripts start it: devices, messages, the compilation cache, the processes of a job."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import digits_jax as dj
from common import console, jobs
from common.options import Job, require


def start_jax(*, compilation_cache: bool, job: Job | None = None) -> None:
    """Imports JAX with one device a core, the library's messages on the console, and its cache.

    With a ``job``, it waits for the other processes, and only process 0 goes on to print.
    """
    if job is not None:
        given = {job.coordinator_address, job.num_processes, job.process_id} != {None}
        flags = "--coordinator-address, --num-processes and --process-id"
        require(job.distributed or not given, f"{flags} need --distributed")
        if job.distributed:
            jobs.speak_when_killed()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of XLA: its errors raise exceptions
    console.say_in_plain_words()
    _quiet_orbax()
    os.environ.update(xla_flags())
    dj.use_all_cpu_cores()
    if compilation_cache:
        dj.use_compilation_cache()
        _mend_compilation_cache()
    if job is not None and job.distributed:
        _join(job)


def xla_flags() -> dict[str, str]:
    """What the scripts set for XLA in the environment, as far as the user has not."""
    flags = os.environ.get("XLA_FLAGS", "")
    with contextlib.suppress(OSError):  # /proc is Linux's
        if "avx512f" in Path("/proc/cpuinfo").read_text() and "vector_width" not in flags:
            # XLA fills half of such a processor's registers unless asked: 3 % of a step's time.
            return {"XLA_FLAGS": f"{flags} --xla_cpu_prefer_vector_width=512".strip()}
    return {}


def process_index() -> int | None:
    """The number of this process, where it is one of a job."""
    jax = sys.modules.get("jax")  # not imported for a mere mistake in an argument
    if jax is None or not jax.distributed.is_initialized():
        return None
    return int(jax.process_index())


def reports() -> bool:
    """Whether this process prints and writes: the only one, or number 0 of a job."""
    return not process_index()


def anywhere(condition: bool) -> bool:
    """Whether something is so in any process of the job, all of which must ask at once."""
    if process_index() is None:
        return condition
    from digits_jax.parallel.processes import gather_values

    return bool(gather_values(np.asarray(condition)).any())


def _join(job: Job) -> None:
    """Waits for the other processes of the job, and is silent from then on except in process 0."""
    jobs.join(job)
    if not reports():
        console.results.quiet = console.notes.quiet = True
        logging.getLogger("digits_jax").setLevel(logging.ERROR)


def _quiet_orbax() -> None:
    """Damage and full disks are raised, and become one line; orbax also logs them at length."""
    from absl import logging as absl

    absl.set_verbosity(absl.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":  # by the first array that failed
            show(unraisable)

    sys.unraisablehook = hook


def _mend_compilation_cache() -> None:
    """Deletes a compiled program that a kill or a full disk cut short, as soon as JAX meets it.

    JAX compiles it anew, but would neither replace the file nor ever stop to complain of it.
    """
    import jax

    folder: str = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    show = warnings.showwarning

    def mend(message: Warning | str, *arguments: Any, **options: Any) -> None:
        damaged = re.match(
            r"Error reading persistent compilation cache .* '([\w.-]+)'", str(message)
        )
        if damaged is None:
            return show(message, *arguments, **options)
        for entry in Path(folder).glob(f"{damaged[1]}-*"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = mend
