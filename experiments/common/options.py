"""Options that scripts share, and checks of arguments that end in one line for the user."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

# Options that every script may have, and that change nothing of what is computed.
NOT_IN_IDENTITY = (
    "output_dir open checkpoint_every resume verbose compilation_cache svg tensorboard track quiet "
    "job".split()
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
class Tracked:
    """What others show of a training; a base of a script's ``Config``."""

    tensorboard: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """TensorBoard's files, too, in the folder tensorboard of the output."""
    track: str | None = None
    """Module with wandb's interface, such as wandb or trackio, that gets curves and scores, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Tracked, Data):
    """How runs are trained; a base of a script's ``Config``."""

    recipe: str = "notebook"
    """Recipe: notebook (the notebook's network and protocol), strong (the most accurate one here),
    or FILE.py:FUNCTION of yours, which takes (inputs, targets) and gives (Recipe, hyperparameters,
    epochs)."""
    epochs: int | None = None
    """Passes over the training rows. Default: the recipe's (notebook: 100)."""
    batch_size: int | None = None
    """Rows of an optimizer step; the last step of an epoch takes the rest. Default: the recipe's
    (notebook: 128)."""
    learning_rate: float | None = None
    """Learning rate of the optimizer; its peak, if the recipe has a schedule. Default: the recipe's
    (notebook: 0.001)."""
    set: tuple[str, ...] = ()
    """Values NAME=VALUE of other hyperparameters of the recipe, such as dropout_rate=0.1, or of a
    field of its network, such as network.width=0.5."""
    validation: float = 0.0
    """Fraction of the training rows that are held out for validation. They give the validation
    curve and, with --patience or --keep best, the best epoch."""
    patience: int | None = None
    """Epochs without a better one on its validation rows, after which a run stops."""
    keep: Literal["last", "best"] = "last"
    """Weights to test: those of the last epoch, or of the best one on the validation rows."""
    seed: int = 0
    """Seed of the splits, initial weights, shuffles and dropout."""
    checkpoint_every: int | None = None
    """Epochs between checkpoints. Default: a tenth of the run."""

    @property
    def settings(self) -> tuple[str, ...]:
        """--set, and the learning rate with it."""
        rate = self.learning_rate
        return self.set if rate is None else (*self.set, f"learning_rate={rate!r}")

    @property
    def watched(self) -> bool:
        """Whether validation rows decide how long a run trains, or which epoch is tested."""
        return self.patience is not None or self.keep == "best"

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
        needs = "--patience and --keep best need validation rows: add --validation 0.1"
        require(not self.watched or self.validation > 0, needs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """Repeated cross-validation; a base of a script's ``Config``."""

    folds: int = 5
    """Parts of the rows; each is the test set of one run."""
    repeats: int = 1
    """Times that the rows are split anew."""

    def check_folds(self) -> None:
        """Raises UsageError."""
        at_least(2, folds=self.folds)
        positive(repeats=self.repeats)
        few_enough(self.folds * self.repeats, "--folds times --repeats")

    def fold_names(self) -> list[str]:
        """One for each fold of each repeat, in the order of the runs."""
        return [
            f"fold {fold}" + f", repeat {repeat}" * (self.repeats > 1)
            for repeat in range(1, self.repeats + 1)
            for fold in range(1, self.folds + 1)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Where results go; a base of a script's ``Config``."""

    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/<script>/<date>-<time>."""
    open: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """The report in the browser, at the end."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing printed but the result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures(Folder):
    """As ``Folder``, of a script that draws."""

    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Figures as SVG, too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Out(Figures):
    """As ``Figures``, of a script that trains."""

    compilation_cache: bool = True
    """Compiled programs kept in the user's cache folder, so that the next start is quick."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumable(Figures):
    """As ``Figures``, of a script that can be stopped, and go on."""

    resume: bool = False
    """The run in --output-dir goes on, with the options that it began with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumableOut(Resumable, Out):
    """As ``Out``, of a script that can be stopped, and go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Options of a script that several processes can run together; a field of its ``Config``."""

    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A job: this process trains together with others. Start each with the same options, and an
    --output-dir on a file system that all share."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, any free port. Under SLURM, Open MPI and Kubernetes, and on Cloud
    TPUs, JAX finds out this and the next two."""
    num_processes: int | None = None
    """Number of processes of the job."""
    process_id: int | None = None
    """Number of this process, from 0."""
    join_seconds: int = 45
    """Seconds in which all processes must have started and found process 0."""


def identifying(config: Any) -> dict[str, Any]:
    """The options of a script that change what is trained, by their names on the command line.

    Without those that say for how long or on what: more epochs may go on, and data are compared.
    """
    fields = (each.name for each in dataclasses.fields(config))
    named = (name for name in fields if name not in (*NOT_IN_IDENTITY, "epochs", "data"))
    return {flag(name): _plain(getattr(config, name)) for name in named}


def _plain(value: Any) -> Any:
    """A value of an option as JSON has it."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


# What a script says at its start whose work is lost where it is stopped.
ALL_OR_NOTHING = "this script can't be resumed: where it is stopped, it begins anew"


def require(condition: bool, message: str) -> None:
    """A check of an argument: raises UsageError."""
    if not condition:
        raise UsageError(message)


@contextlib.contextmanager
def usage_errors(
    prefix: str = "", kinds: tuple[type[Exception], ...] = (ValueError,)
) -> Iterator[None]:
    """What is raised within, of these kinds, is a user's mistake: UsageError, with the prefix."""
    try:
        yield
    except kinds as error:
        raise UsageError(f"{prefix}{error}") from error


def flag(name: str) -> str:
    """A field of a ``Config`` as it is written on the command line."""
    return "--" + name.replace("_", "-")


def positive(**values: float | None) -> None:
    """Checks that numbers are greater than zero and fit int32 or float32; None passes."""
    for name, value in values.items():
        if value is not None:
            require(value > 0, f"{flag(name)} must be a positive number, not {value}")
            most = INT32_MAX if isinstance(value, int) else FLOAT32_MAX
            require(value <= most, f"{flag(name)} must be at most {most}, not {value}")


def at_least(least: int, **values: int) -> None:
    """Checks that numbers are not smaller."""
    for name, value in values.items():
        require(value >= least, f"{flag(name)} must be at least {least}, not {value}")


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
        require(0 <= value < 2**32, f"{flag(name)} must be in 0 to 2^32 - 1, not {value}")
