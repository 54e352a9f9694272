"""Train many small networks at once, in one vmapped, jitted JAX program."""

from digits_jax.augment import AffineJitter
from digits_jax.cross_validation import (
    CrossValidation,
    Interrupted,
    Progress,
    cross_validate,
    load_states,
    make_runs,
)
from digits_jax.data import DataError, Dataset, DataWarning, Provenance, load_digits
from digits_jax.devices import runs_mesh, use_all_cpu_cores, use_compilation_cache
from digits_jax.model import DigitsCNN, layer_table
from digits_jax.optimizers import OneCycleAdam
from digits_jax.presets import PRESETS, Preset, preset
from digits_jax.splits import (
    Split,
    holdout_split,
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

__version__ = "0.1.0"

__all__ = [
    "AffineJitter",
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
    "adam",
    "corrected_resampled_ttest",
    "cross_entropy",
    "cross_validate",
    "eval_step",
    "evaluate",
    "holdout_split",
    "init_state",
    "kfold_splits",
    "layer_table",
    "load_digits",
    "load_states",
    "make_runs",
    "mcnemar_test",
    "predict",
    "preset",
    "refit_split",
    "runs_mesh",
    "stack_splits",
    "summarize",
    "train_epoch",
    "train_epochs",
    "train_step",
    "use_all_cpu_cores",
    "use_compilation_cache",
    "wilson_interval",
    "writer_disjoint_split",
]
