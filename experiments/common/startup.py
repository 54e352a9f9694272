"""JAX as the scripts start it: devices, messages, the compilation cache, the processes of a job."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
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
            # mpirun's processes see a terminal, which nobody reads while it ends them: a bar would
            # fill it, and its process wait for ever.
            console.notes.is_interactive = False
    if job is None or not job.distributed:  # of a job, process 0 alone prints, once it is known
        console.say("starting JAX", console.notes)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of XLA: its errors raise exceptions
    _heed_backend()
    console.say_in_plain_words()
    _quiet_orbax()
    os.environ.update(xla_flags())
    with contextlib.suppress(RuntimeError):  # in a notebook, whose devices have started
        dj.use_all_cpu_cores()
    if compilation_cache:
        dj.use_compilation_cache()
        _mend_compilation_cache()
    if job is not None and job.distributed:
        _join(job)


def xla_flags() -> dict[str, str]:
    """What the scripts set for XLA in the environment, as far as the user has not."""
    flags = given = os.environ.get("XLA_FLAGS", "")
    with contextlib.suppress(OSError):  # /proc is Linux's
        if "avx512f" in Path("/proc/cpuinfo").read_text() and "vector_width" not in flags:
            # XLA fills half of such a processor's registers unless asked: 3 % of a step's time.
            flags += " --xla_cpu_prefer_vector_width=512"
    if "xla_gpu_enable_command_buffer" not in flags:
        # So that an epoch is one CUDA graph, and not only each of its steps.
        flags += " --xla_gpu_enable_command_buffer=+WHILE"
    return {} if flags == given else {"XLA_FLAGS": flags.strip()}


def _heed_backend() -> None:
    """Leaves MPLBACKEND alone where matplotlib can load it; the figures are files in any case.

    A notebook sets its own for every program that it starts, and another Python may lack it.
    """
    if "MPLBACKEND" in os.environ:
        try:
            import matplotlib  # noqa: F401
        except ValueError:
            del os.environ["MPLBACKEND"]


@contextlib.contextmanager
def left_as_found() -> Iterator[None]:
    """Undoes at its end what a script changes in its process: a notebook goes on after ``%run``."""
    main_thread = threading.current_thread() is threading.main_thread()
    signals = {number: signal.getsignal(number) for number in console.SIGNALS if main_thread}
    loggers = [logging.getLogger(name) for name in ("digits_jax", "jax", "matplotlib", "asyncio")]
    logs = [(each.handlers, each.level, each.propagate) for each in loggers]
    consoles = {each: each.quiet for each in (console.results, console.notes, console.errors)}
    environment, absl = dict(os.environ), sys.modules.get("absl.logging")
    verbosity = None if absl is None else absl.get_verbosity()
    level = logging.NOTSET if absl is None else absl.get_absl_logger().level
    shown, unraisable = warnings.showwarning, sys.unraisablehook
    threshold = gc.get_threshold()
    # JAX's imports and traces make a million objects that stay: to look through them again and
    # again is an eighth of the time before the first epoch.
    gc.set_threshold(50_000, *threshold[1:])
    config = sys.modules["jax"].config if "jax" in sys.modules else None
    cache = {name: getattr(config, name) for name in _CACHE if config is not None}
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
        for logger, (handlers, its_level, propagate) in zip(loggers, logs, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(its_level)
        for each, quiet in consoles.items():
            each.quiet = quiet
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        if "absl.logging" in sys.modules:
            absl = sys.modules["absl.logging"]
            absl.set_verbosity(absl.WARNING if verbosity is None else verbosity)
            absl.get_absl_logger().setLevel(level)  # which a verbosity sets, too
        warnings.showwarning, sys.unraisablehook = shown, unraisable
        gc.set_threshold(*threshold)
        for name, value in cache.items():
            sys.modules["jax"].config.update(name, value)


# JAX's settings that ``start_jax`` changes and that can be changed back.
_CACHE = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


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

    folder: str | None = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None:  # no home
        return
    kept, show = Path(folder), warnings.showwarning

    def mend(message: Warning | str, *arguments: Any, **options: Any) -> None:
        damaged = re.match(
            r"Error reading persistent compilation cache .* '([\w.-]+)'", str(message)
        )
        if damaged is None:
            return show(message, *arguments, **options)
        for entry in kept.glob(f"{damaged[1]}-*"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = mend
