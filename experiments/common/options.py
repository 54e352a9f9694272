"""Options that scripts share, and checks of arguments that end in one line for the user."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Options that every script may have, and that change nothing of what is computed.
NOT_IN_IDENTITY = (
    "output_dir checkpoint_every resume verbose compilation_cache svg tensorboard quiet job".split()
)
INT32_MAX, FLOAT32_MAX = 2**31 - 1, 3.4028235e38  # JAX computes in 32 bits


class UsageError(Exception):
    """A user's mistake; the message names the cause and the remedy, in one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """The rows of a script that knows the digits alone; a base of its ``Config``."""

    data: str = "auto"
    """Rows: auto (the cached download, else UCI, else bundled), uci, bundled, or the path of a
    CSV in UCI's layout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of a script that takes any; a base of its ``Config``."""

    data: str = "auto"
    """Rows: auto (the cached download, else UCI, else bundled), uci, bundled, the path of a CSV in
    UCI's layout, or an .npz with arrays inputs and targets (and, if you like, weights, groups that
    stay together, and class_names)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Data):
    """How runs are trained; a base of a script's ``Config``."""

    recipe: str = "notebook"
    """notebook (the notebook's network and protocol), strong (the most accurate one here), or
    FILE.py:FUNCTION of yours, which takes (inputs, targets) and gives (Recipe, hyperparameters,
    epochs)."""
    epochs: int | None = None
    """Passes over the training rows. Default: the recipe's, of the notebook's 100."""
    batch_size: int | None = None
    """Rows of an optimizer step; the last of an epoch takes what is left. Default: the recipe's, of
    the notebook's 128."""
    learning_rate: float | None = None
    """Of the optimizer, a step; where the recipe has a schedule, its peak. Default: the recipe's,
    of the notebook's 0.001."""
    set: tuple[str, ...] = ()
    """NAME=VALUE of other hyperparameters of the recipe, such as dropout_rate=0.1, or of a field of
    its network, such as network.width=0.5."""
    validation: float = 0.0
    """Fraction of the training rows that don't train, but draw the validation curve, and choose the
    best epoch with --patience or --keep best."""
    patience: int | None = None
    """Stop a run after so many epochs without a better one on its validation rows."""
    keep: Literal["last", "best"] = "last"
    """Test the weights of the last epoch, or of the best one on the validation rows."""
    seed: int = 0
    """Of the splits, initial weights, shuffles and dropout."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints. Default: a tenth of the run."""
    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write what TensorBoard shows, to the folder tensorboard of the output."""

    @property
    def settings(self) -> tuple[str, ...]:
        """--set, and the learning rate with it."""
        rate = self.learning_rate
        return self.set if rate is None else (*self.set, f"learning_rate={rate!r}")

    def check(self) -> None:
        """Raises UsageError."""
        positive(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            patience=self.patience,
            checkpoint_every=self.checkpoint_every,
        )
        seed(seed=self.seed)
        for text in self.set:
            require("=" in text, f"--set {text}: write it as NAME=VALUE")
        inside = 0 <= self.validation < 1
        require(inside, f"--validation must be at least 0 and below 1, not {self.validation}")
        watched = self.patience is not None or self.keep == "best"
        require(
            not watched or self.validation > 0,
            "--patience and --keep best need validation rows: add --validation 0.1",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Out:
    """Where results go, and how; a base of a script's ``Config``."""

    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/<script>/<date>-<time>."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figures as SVG."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumableOut(Out):
    """As ``Out``, of a script that can be stopped, and go on."""

    resume: bool = False
    """Go on with what is saved in --output-dir."""


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
    join_seconds: int = 45
    """Seconds in which all processes must have started and found process 0."""


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
