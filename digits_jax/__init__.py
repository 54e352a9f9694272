"""Train many small networks at once, in one vmapped, jitted JAX program."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from digits_jax import metrics, statistics
from digits_jax.augment import Jitter
from digits_jax.cross_validation import (
    CrossValidation,
    Interrupted,
    Progress,
    cross_validate,
    load_states,
    make_runs,
    trained_experiment,
)
from digits_jax.data import DataError, Dataset, DataWarning, Provenance, load_digits
from digits_jax.devices import runs_mesh, use_all_cpu_cores, use_compilation_cache
from digits_jax.model import DigitsCNN, layer_table
from digits_jax.optimizers import OneCycleAdam
from digits_jax.presets import PRESETS, Preset, preset
from digits_jax.splits import (
    Split,
    holdout_split,
    inner_splits,
    kfold_splits,
    refit_split,
    stack_splits,
    writer_disjoint_split,
)
from digits_jax.statistics import (
    McNemarResult,
    Summary,
    TTestResult,
    corrected_resampled_ttest,
    mcnemar_test,
    summarize,
    wilson_interval,
)
from digits_jax.train import (
    Batch,
    Examples,
    Experiment,
    History,
    Hyperparameters,
    Run,
    Sums,
    TrainState,
    adam,
    cross_entropy,
    eval_step,
    evaluate,
    init_state,
    predict,
    train_epoch,
    train_epochs,
    train_step,
)
from digits_jax.waves import WaveResults, WavesInterrupted, read_waves, train_in_waves

if TYPE_CHECKING:
    from digits_jax import plots

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "CrossValidation",
    "DataError",
    "DataWarning",
    "Dataset",
    "DigitsCNN",
    "Examples",
    "Experiment",
    "History",
    "Hyperparameters",
    "Interrupted",
    "Jitter",
    "McNemarResult",
    "OneCycleAdam",
    "PRESETS",
    "Preset",
    "Progress",
    "Provenance",
    "Run",
    "Split",
    "Summary",
    "Sums",
    "TTestResult",
    "TrainState",
    "WaveResults",
    "WavesInterrupted",
    "adam",
    "corrected_resampled_ttest",
    "cross_entropy",
    "cross_validate",
    "eval_step",
    "evaluate",
    "holdout_split",
    "init_state",
    "inner_splits",
    "kfold_splits",
    "layer_table",
    "load_digits",
    "load_states",
    "make_runs",
    "mcnemar_test",
    "metrics",
    "plots",
    "predict",
    "preset",
    "read_waves",
    "refit_split",
    "runs_mesh",
    "stack_splits",
    "statistics",
    "summarize",
    "train_epoch",
    "train_epochs",
    "train_in_waves",
    "train_step",
    "trained_experiment",
    "use_all_cpu_cores",
    "use_compilation_cache",
    "wilson_interval",
    "writer_disjoint_split",
]


def __getattr__(name: str) -> ModuleType:
    """Imports ``plots`` at its first use: matplotlib would double the time of our import."""
    if name == "plots":
        return importlib.import_module("digits_jax.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return __all__
