"""One saved step, through ``orbax.checkpoint.v1``: the only file that knows orbax."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from digits_jax.parallel.processes import ProcessLost, reporting_lost_processes
from digits_jax.storage.errors import CheckpointError, DamagedError, SaveError


def open_writer(folder: Path, keep: int) -> ocp.training.Checkpointer:
    """The writer of a folder's numbered steps; what an interrupted save left is removed.

    Args:
        folder: orbax reads the metadata of all steps there, which must be undamaged.
        keep: the newest steps that are kept.
    """
    context = ocp.Context()
    # Weights hardly compress, by 8 %, and that takes six times as long, of cores that train.
    context.array_options.saving.use_compression = False
    return ocp.training.Checkpointer(
        folder,
        context=context,
        save_decision_policy=_Always(),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
        cleanup_tmp_directories=True,
    )


def saved_arrays(step: Path) -> Any:
    """The tree of a step, its leaves with ``shape`` and ``dtype``; None where it can't be read."""
    with _alone():
        return ocp.metadata(step).metadata


def custom_metadata(step: Path) -> Any:
    """What was saved with a step beside its tree, JSON values."""
    with _alone():
        return ocp.metadata(step).custom_metadata


def load_arrays(step: Path, like: Any) -> Any:
    """The tree of a step.

    Args:
        step: a folder, whose tree has this structure.
        like: leaves are NumPy arrays, or shapes with a sharding. A first axis that is longer than
            the saved one is filled up with anything, a shorter one is cut.
    """
    with _alone():
        return ocp.load(step, like)


@contextlib.contextmanager
def reading(step: Path) -> Iterator[None]:
    """A block that reads a step. Any error is damage: it shows as any of a dozen exceptions.

    Raises:
        DamagedError: in place of any other error than a CheckpointError.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise DamagedError(f"checkpoint {step} is damaged ({_reason(error)})") from error


@contextlib.contextmanager
def saving(step: Path) -> Iterator[None]:
    """A block that writes a step.

    Raises:
        ProcessLost: another process ended.
        SaveError: in place of any other error than a CheckpointError.
    """
    try:
        with reporting_lost_processes():
            yield
    except (CheckpointError, ProcessLost):
        raise
    except Exception as error:
        raise SaveError(
            f"checkpoint {step} can't be written ({_reason(error)}); make room or make the folder "
            "writable, then resume: the checkpoints before it are intact"
        ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Lets orbax read without waiting for other processes, which may find damage and give up."""
    context = ocp.Context()
    context.array_options.loading.enable_padding_and_truncation = True
    if jax.process_count() > 1:
        mine = jax.process_index()
        context.multiprocessing_options.primary_host = mine
        context.multiprocessing_options.active_processes = {mine}
        context.multiprocessing_options.barrier_sync_key_prefix = f"process_{mine}"
    with context:
        yield


def _reason(error: BaseException) -> str:
    """Why, in a few words: orbax and TensorStore add their whole configuration to a message."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"\[os_error_code='(\d+)'", str(error))
    if code is not None:
        return os.strerror(int(code[1]))
    text = " ".join(str(error).split("[tensorstore_spec")[0].split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


class _Always:
    """The caller decides when to save."""

    def should_save(self, *args: Any, **kwargs: Any) -> bool:
        return True
