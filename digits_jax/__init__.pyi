# The public names, and where each comes from; `__init__.py` loads each at its first use.

from . import metrics, plots, statistics
from .augment import Jitter, ShiftedViews
from .data import DataError, Dataset, DataWarning, Provenance, load_digits
from .dropout import Dropout
from .estimators import Classifier, Regressor
from .evaluation import eval_step, evaluate, predict
from .losses import accuracy, cross_entropy, squared_error
from .lowering.jaxprs import fast, lower
from .model import DigitsCNN, layer_table
from .networks import Network, NetworkWithHyperparameters, as_network
from .optimizers import Hyperparameters, OneCycleAdam, adam
from .parallel.mesh import runs_mesh
from .parallel.startup import use_all_cpu_cores, use_compilation_cache
from .recipe import Recipe
from .recipes.by_name import RECIPES, NamedRecipe, recipe_by_name
from .runs.axis import make_runs, shared, take_run, take_runs
from .runs.cross_validation import cross_validate
from .runs.draws import crossed
from .runs.nested import nested_cross_validate
from .runs.results import CrossValidation, Interrupted, Progress, ScoreSummary
from .runs.saved import Saved, load_states, trained_recipe
from .search.spaces import choice, decay, grid, log_uniform, random_search, uniform
from .splits import (
    Split,
    SplitKind,
    holdout_split,
    index_splits,
    inner_splits,
    kfold_splits,
    refit_split,
    stack_splits,
    test_sizes,
    train_sizes,
    with_validation,
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
from .structures import Batch, Data, Keys, Run, Sums, TrainState
from .train import init_state, train_epoch, train_epochs, train_step
from .wave_files import WavesInterrupted
from .waves import WaveResults, read_waves, train_in_waves

__version__: str

__all__ = [
    "Batch",
    "Classifier",
    "CrossValidation",
    "Data",
    "DataError",
    "DataWarning",
    "Dataset",
    "DigitsCNN",
    "Dropout",
    "Hyperparameters",
    "Interrupted",
    "Jitter",
    "Keys",
    "McNemarResult",
    "NamedRecipe",
    "Network",
    "NetworkWithHyperparameters",
    "OneCycleAdam",
    "Progress",
    "Provenance",
    "RECIPES",
    "Recipe",
    "Regressor",
    "Run",
    "Saved",
    "ScoreSummary",
    "ShiftedViews",
    "Split",
    "SplitKind",
    "Summary",
    "Sums",
    "TTestResult",
    "TrainState",
    "WaveResults",
    "WavesInterrupted",
    "accuracy",
    "adam",
    "as_network",
    "choice",
    "corrected_resampled_ttest",
    "cross_entropy",
    "cross_validate",
    "crossed",
    "decay",
    "eval_step",
    "evaluate",
    "fast",
    "grid",
    "holdout_split",
    "index_splits",
    "init_state",
    "inner_splits",
    "kfold_splits",
    "layer_table",
    "load_digits",
    "load_states",
    "log_uniform",
    "lower",
    "make_runs",
    "mcnemar_test",
    "metrics",
    "nested_cross_validate",
    "plots",
    "predict",
    "random_search",
    "read_waves",
    "recipe_by_name",
    "refit_split",
    "runs_mesh",
    "shared",
    "squared_error",
    "stack_splits",
    "statistics",
    "summarize",
    "take_run",
    "take_runs",
    "test_sizes",
    "train_epoch",
    "train_epochs",
    "train_in_waves",
    "train_sizes",
    "train_step",
    "trained_recipe",
    "uniform",
    "use_all_cpu_cores",
    "use_compilation_cache",
    "wilson_interval",
    "with_validation",
    "writer_disjoint_split",
]
