"""Options that scripts share, and checks of arguments that end in one line for the user."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

# Options that every script may have, and that change nothing of what is computed.
NOT_IN_IDENTITY = (
    "output_dir checkpoint_every resume verbose compilation_cache svg tensorboard quiet job".split()
)
INT32_MAX, FLOAT32_MAX = 2**31 - 1, 3.4028235e38  # JAX computes in 32 bits


class UsageError(Exception):
    """A user's mistake; the message names the cause and the remedy, in one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Options of a script that several processes can run together; a field of its ``Config``."""

    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train together with the other processes of a job. Start each with the same options, and an
    --output-dir on a file system that all share."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, any free port. Under SLURM, Open MPI and Kubernetes, and on Cloud
    TPUs, JAX finds out this and the next two."""
    num_processes: int | None = None
    """Of the job."""
    process_id: int | None = None
    """Of this process, from 0."""


def identifying(config: Any) -> dict[str, Any]:
    """The options of a script that change what is trained, by their names on the command line.

    Without those that say for how long or on what: more epochs may go on, and data are compared.
    """
    fields = (each.name for each in dataclasses.fields(config))
    named = (name for name in fields if name not in (*NOT_IN_IDENTITY, "epochs", "data"))
    values = {f"--{name.replace('_', '-')}": getattr(config, name) for name in named}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def require(condition: bool, message: str) -> None:
    """A check of an argument: raises UsageError."""
    if not condition:
        raise UsageError(message)


def positive(**values: float | None) -> None:
    """Checks that numbers are greater than zero and fit int32 or float32; None passes."""
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        require(value is None or value > 0, f"{flag} must be a positive number, not {value}")
        most = INT32_MAX if isinstance(value, int) else FLOAT32_MAX
        require(value is None or value <= most, f"{flag} must be at most {most}, not {value}")


def few_enough(count: int, flags: str) -> None:
    """Checks the number of splits, or of networks on each: beyond, it is a slip of the keys."""
    require(count <= 10_000, f"{flags} must make at most 10000, not {count}")


def countable(epochs: int, rows: int, batch_size: int) -> None:
    """Checks that JAX's 32 bits can count the steps of a run."""
    steps = epochs * -(-rows // batch_size)
    counted = f"at most {INT32_MAX} can be counted"
    require(steps <= INT32_MAX, f"--epochs {epochs} makes {steps} steps; {counted}")


def seed(**values: int) -> None:
    """Checks that seeds are what both NumPy and JAX take."""
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        require(0 <= value < 2**32, f"{flag} must be in 0 to 2^32 - 1, not {value}")
