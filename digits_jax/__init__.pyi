# The public names, and where each comes from; `__init__.py` loads each at its first use.

from . import metrics, plots, statistics
from .augment import Jitter, ShiftedViews
from .data import DataError, Dataset, DataWarning, Provenance, load_digits
from .losses import cross_entropy
from .model import DigitsCNN, layer_table
from .optimizers import Hyperparameters, OneCycleAdam, adam
from .parallel.mesh import runs_mesh
from .parallel.startup import use_all_cpu_cores, use_compilation_cache
from .recipe import Recipe
from .recipes.by_name import RECIPES, NamedRecipe, recipe_by_name
from .runs.axis import make_runs
from .runs.cross_validation import cross_validate
from .runs.results import CrossValidation, Interrupted, Progress
from .runs.saved import load_states, trained_recipe
from .splits import (
    Split,
    holdout_split,
    inner_splits,
    kfold_splits,
    refit_split,
    stack_splits,
    writer_disjoint_split,
)
from .statistics import (
    McNemarResult,
    Summary,
    TTestResult,
    corrected_resampled_ttest,
    mcnemar_test,
    summarize,
    wilson_interval,
)
from .train import (
    Batch,
    Examples,
    History,
    Run,
    Sums,
    TrainState,
    eval_step,
    evaluate,
    init_state,
    predict,
    train_epoch,
    train_epochs,
    train_step,
)
from .waves import WaveResults, WavesInterrupted, read_waves, train_in_waves

__version__: str

__all__ = [
    "Batch",
    "CrossValidation",
    "DataError",
    "DataWarning",
    "Dataset",
    "DigitsCNN",
    "Examples",
    "Recipe",
    "History",
    "Hyperparameters",
    "Interrupted",
    "Jitter",
    "McNemarResult",
    "OneCycleAdam",
    "RECIPES",
    "NamedRecipe",
    "Progress",
    "Provenance",
    "Run",
    "ShiftedViews",
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
    "recipe_by_name",
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
    "trained_recipe",
    "use_all_cpu_cores",
    "use_compilation_cache",
    "wilson_interval",
    "writer_disjoint_split",
]
