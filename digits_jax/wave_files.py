"""Work in waves, one file a wave: what has ended is kept, and not done again.

A file appears whole or not at all. In a job of several processes, process 0 alone reads and writes
the folder, and gives the others what it found.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from digits_jax.parallel.processes import from_first, gather_values
from digits_jax.runs.refusals import refuse_other_training
from digits_jax.runs.results import Interrupted
from digits_jax.storage.errors import CheckpointError
from digits_jax.storage.files import DamagedFile, read_arrays, remove_partial_files, write_arrays
from digits_jax.storage.locks import FolderLock

logger: logging.Logger = logging.getLogger("digits_jax")


class WavesInterrupted(Interrupted):
    """A callback asked to stop; the waves that had ended are saved."""

    def __init__(self, done: int, count: int, unit: str = "runs") -> None:
        Exception.__init__(self, f"stopped after {done} of {count} {unit}")
        self.done = done


def in_waves(
    compute: Callable[[int, int], Mapping[str, Any]],
    count: int,
    wave_size: int,
    *,
    folder: str | os.PathLike[str],
    identity_of: Callable[[int, int], Mapping[str, Any]],
    resume: bool = False,
    on_wave: Callable[[int], bool | None] | None = None,
    unit: str = "runs",
    together: bool = False,
) -> None:
    """Calls ``compute(start, stop)`` for one wave after another, and saves what it gives.

    Args:
        compute: gives arrays by name.
        count: of what is computed, say runs.
        wave_size: how many of them a wave has; the last may have fewer.
        folder: made if it is missing; gets one file a wave, ``wave-START.npz``.
        identity_of: of the wave (start, stop), names and JSON values.
        resume: a wave that is saved and valid is not computed again; a damaged one is, and named
            in a warning to the logger "digits_jax".
        on_wave: called with how much is done at the start and after each wave; True stops. Where
            it is True in one process of a job, all stop.
        unit: what is counted, for messages.
        together: all processes of a job call this, and all ``compute`` every wave. Process 0 alone
            reads and writes the folder.

    Raises:
        CheckpointError: the folder holds waves that are not to be resumed, or are of other things.
        FolderInUse: another process writes to the folder.
        WavesInterrupted: ``on_wave`` or ``compute`` asked to stop.
    """
    folder = Path(folder).expanduser()
    shape = {"count": count, "wave_size": wave_size}
    with contextlib.ExitStack() as stack:

        def look() -> dict[str, np.ndarray]:
            stack.enter_context(FolderLock(folder))
            remove_partial_files(folder)
            return {"starts": np.array(_finished(folder, shape, identity_of, resume), np.int64)}

        finished = by_first(look, together)["starts"].tolist()
        done = sum(min(start + wave_size, count) - start for start in finished)

        def stop_if(asked: bool | None) -> None:
            if together:
                asked = bool(gather_values(np.asarray(bool(asked))).any())
            if asked and done < count:
                raise WavesInterrupted(done, count, unit)

        stop_if(on_wave is not None and on_wave(done))
        for start in range(0, count, wave_size):
            if start in finished:
                continue
            stop = min(start + wave_size, count)
            try:
                arrays = compute(start, stop)
            except Interrupted as interrupted:
                raise WavesInterrupted(done, count, unit) from interrupted
            if not together or jax.process_index() == 0:
                identity = {**shape, "start": start, **_short(identity_of(start, stop))}
                write_arrays(folder / f"wave-{start:08d}.npz", arrays, identity)
            done += stop - start
            stop_if(on_wave is not None and on_wave(done))


def load_waves(
    folder: str | os.PathLike[str], wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """The arrays of all finished waves, joined.

    Args:
        folder: of ``in_waves``.
        wanted: which arrays, by name. Default: all.

    Returns:
        Arrays by name, and int64 ``runs``, the numbers of what they are of.

    Raises:
        CheckpointError: there is no wave, or one is damaged (it is named).
    """
    waves: list[dict[str, np.ndarray]] = []
    for path, start in _files(Path(folder).expanduser()):
        try:
            saved, _ = read_arrays(path)
        except DamagedFile as damage:
            raise CheckpointError(f"{damage}; resume the job to compute it again") from damage
        arrays = {name: array for name, array in saved.items() if wanted(name)}
        rows = len(next(iter(arrays.values())))
        waves.append({"runs": np.arange(start, start + rows), **arrays})
    if not waves:
        raise CheckpointError(f"no finished wave in {os.fspath(folder)}")
    return {name: np.concatenate([wave[name] for wave in waves]) for name in waves[0]}


def of_kind(kind: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those of the arrays whose names begin with the kind and a point, by the rest of the name."""
    prefix = f"{kind}."
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def saved_wave_size(folder: str | os.PathLike[str]) -> int | None:
    """The size of the waves that a folder holds, or None; damaged waves don't count."""
    for path, _ in _files(Path(folder).expanduser()):
        with contextlib.suppress(DamagedFile):
            return int(read_arrays(path)[1]["wave_size"])
    return None


def by_first(look: Callable[[], Mapping[str, np.ndarray]], together: bool) -> dict[str, Any]:
    """Arrays by name that ``look`` finds: of a job, in process 0, whose error all others raise."""
    if not together:
        return dict(look())
    error, memory = None, io.BytesIO()
    if jax.process_index() == 0:
        try:
            found: Any = look()
            np.savez(memory, **found)
        except Exception as raised:
            error, memory = raised, io.BytesIO()
            np.savez(memory, error=np.array(str(error)))
    content = from_first(memory.getvalue())
    if error is not None:
        raise error
    with np.load(io.BytesIO(content), allow_pickle=False) as answer:
        if "error" in answer:
            raise CheckpointError(str(answer["error"]))
        return {name: answer[name] for name in answer.files}


def _finished(
    folder: Path,
    shape: Mapping[str, int],
    identity_of: Callable[[int, int], Mapping[str, Any]],
    resume: bool,
) -> list[int]:
    """The first runs of the waves that are saved and valid; see ``in_waves``."""
    finished = []
    for path, start in _files(folder):
        if not resume:
            raise CheckpointError(
                f"{folder} holds waves already; give resume=True to go on with them, or another "
                "folder"
            )
        try:
            _, saved = read_arrays(path)
        except DamagedFile as damage:
            logger.warning("%s; it is computed again", damage)
            continue
        count = min(saved.get("count", shape["count"]), shape["count"])  # there may be more now
        wanted: dict[str, Any] = {**shape, "count": count, "start": start}
        stop = min(start + shape["wave_size"], count)
        if wanted.items() <= saved.items():
            wanted |= _short(identity_of(start, stop))
        else:  # cut otherwise: that is difference enough
            wanted = {**saved, **wanted}
        refuse_other_training(path, saved, wanted)
        if stop < min(start + shape["wave_size"], shape["count"]):
            continue  # the last of fewer runs is computed again, with those that came
        finished.append(start)
    return finished


def _files(folder: Path) -> list[tuple[Path, int]]:
    """The finished waves, and the number of the first run of each."""
    found = [
        (path, int(path.stem.removeprefix("wave-")))
        for path in folder.glob("wave-*.npz")
        if path.stem.removeprefix("wave-").isdecimal()
    ]
    return sorted(found, key=operator.itemgetter(1))


def _short(described: Mapping[str, Any]) -> dict[str, Any]:
    """Long lists as a digest, so that a refusal stays readable."""
    short = dict(described)
    for name, value in described.items():
        if isinstance(value, list) and len(value) > 8:
            digest = hashlib.sha256(json.dumps(value).encode()).hexdigest()
            short[name] = f"{len(value)} values {digest[:16]}"
    return short
