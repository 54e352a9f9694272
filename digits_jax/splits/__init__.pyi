# The public names, and where each comes from; `__init__.py` loads each at its first use.

from .folds import (
    holdout_split,
    inner_splits,
    kfold_splits,
    refit_split,
    writer_disjoint_split,
)
from .splitters import index_splits
from .stacked import (
    Split,
    SplitKind,
    check_stacked,
    index_runs,
    kinds,
    one_split,
    stack_splits,
    test_sizes,
    train_sizes,
    without_absent_rows,
)
from .validation import with_validation

__all__ = [
    "Split",
    "SplitKind",
    "check_stacked",
    "holdout_split",
    "index_runs",
    "index_splits",
    "inner_splits",
    "kfold_splits",
    "kinds",
    "one_split",
    "refit_split",
    "stack_splits",
    "test_sizes",
    "train_sizes",
    "with_validation",
    "without_absent_rows",
    "writer_disjoint_split",
]
