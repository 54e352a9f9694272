"""The table of situations: an environment, a script, and how it must end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = ("train.py", "--data", "bundled", "--epochs", "1")
CROSS = ("cross_validate.py", "--data", "bundled", "--folds", "2", "--epochs", "1", "--no-refit")

# What a sitecustomize module does in the child, before anything else.
NO_METADATA = """
import importlib.metadata as metadata
found = metadata.version
def version(name):
    if name.replace("-", "_") in ("digits_jax", "orbax_checkpoint"):
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
"""
LITTLE_MEMORY = """
import psutil
found = psutil.virtual_memory
psutil.virtual_memory = lambda: found()._replace(available={available})
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Situation:
    """An environment, a script, and how it must end.

    Attributes:
        words: the script of ``experiments/`` and its options; ``{here}`` is the working folder.
        environment: variables that are set; None takes one away.
        flags: of Python.
        module: started as ``python -m experiments.…``.
        site: code that Python runs first, as sitecustomize.
        files: written to the working folder before.
        stdout: where standard output goes: a file, or "closed", or "gone", a pipe nobody reads.
        nobody: as a user who is in no passwd.
        status: of the exit.
        errors: what standard error says, line by line, each a part of it.
        prints: what standard output has.
        complete: whether ``results.json`` is there.
        warnings: how many it lists.
        devices: that it names.
        like_plain: whether its scores are those of the plain start, to rounding.
    """

    words: tuple[str, ...] = TRAIN
    environment: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    module: bool = False
    site: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stdout: str = ""
    nobody: bool = False
    status: int = 0
    errors: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()
    complete: bool = True
    warnings: int = 0
    devices: int | None = None
    like_plain: bool = True


SITUATIONS = {
    "plain": Situation(),
    # What the user set wins.
    "64 bits": Situation(environment={"JAX_ENABLE_X64": "1"}),
    "devices by XLA's flag": Situation(
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, devices=3
    ),
    "devices and platform by JAX's variables": Situation(
        environment={"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}, devices=1
    ),
    "precision": Situation(environment={"JAX_DEFAULT_MATMUL_PRECISION": "highest"}),
    "a notebook's backend": Situation(environment={"MPLBACKEND": "module://no_such.backend"}),
    "a backend with windows": Situation(environment={"MPLBACKEND": "tkagg", "DISPLAY": None}),
    "a matplotlibrc": Situation(
        files={"matplotlibrc": "figure.dpi: 50\nfont.size: 5\nsavefig.facecolor: red\n"},
        environment={"MATPLOTLIBRC": "matplotlibrc"},
    ),
    "narrow, without colours": Situation(
        environment={"NO_COLOR": "1", "COLUMNS": "30", "TERM": "dumb"}
    ),
    # What is lacking is done without.
    "neither home nor passwd": Situation(
        environment={"HOME": None, "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None}, nobody=True
    ),
    "no folder to keep things in": Situation(
        environment={"HOME": "/proc", "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None}
    ),
    "ASCII alone": Situation(
        words=CROSS,
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        | {"PYTHONIOENCODING": "ascii"},
        prints=("mean ? sd",),
        like_plain=False,
    ),
    "no metadata": Situation(site=NO_METADATA),
    # Bookkeeping never ends finished work.
    "a full disk behind the output": Situation(
        stdout="/dev/full", status=1, errors=("error: output: No space left on device",)
    ),
    "a reader that has gone": Situation(stdout="gone", status=1),
    "no output at all": Situation(stdout="closed"),
    "no figure can be drawn": Situation(
        files={"matplotlibrc": "text.usetex: True\n"},
        environment={"MATPLOTLIBRC": "matplotlibrc", "PATH": "/nowhere"},
        status=1,
        errors=("figure", "figure", "figure", "figure", "figure", "report.html"),
        warnings=6,
    ),
    # Names are shown and used as they are written.
    "markup in a folder's name": Situation(
        words=(*TRAIN, "--output-dir", "[bold]a[/b] <b>&"), prints=("to [bold]a[/b] <b>&/:",)
    ),
    "a home folder that no shell expands": Situation(
        words=(*TRAIN, "--output-dir=~/digits"), environment={"HOME": "{here}/home"}
    ),
    "a folder that can't be made": Situation(
        words=(*TRAIN, "--output-dir", "/proc/none"),
        status=1,
        errors=("choose an --output-dir that you can write to",),
        complete=False,
    ),
    # Memory.
    "waves": Situation(
        words=("train.py", "--data", "bundled", "--epochs", "1", "--seeds", "9"),
        environment={"JAX_NUM_CPU_DEVICES": "2"},
        site=LITTLE_MEMORY.format(available=60e6),
        prints=("9 runs are more than memory holds", "9 of 9 runs done"),
        devices=2,
        like_plain=False,
    ),
    "not one run": Situation(
        site=LITTLE_MEMORY.format(available=1e6),
        status=1,
        errors=("error: a run takes about 0.0 GB, and 0.0 GB are left for each device",),
        complete=False,
    ),
    # Usual ways to start Python.
    "as a module": Situation(module=True),
    "without assertions": Situation(flags=("-O",)),
    "without docstrings": Situation(flags=("-OO",)),
    "with a safe path": Situation(flags=("-P",)),
    "isolated": Situation(flags=("-I",)),
    "warnings shown": Situation(flags=("-W", "default::UserWarning")),
}
