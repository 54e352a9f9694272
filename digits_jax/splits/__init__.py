"""Which rows train, validate and test a run.

``stacked`` has the ``Split`` of many runs, ``folds`` makes those that the experiments need,
``splitters`` takes any splitter's rows, and ``validation`` takes validation rows out of the ones
that train.
"""

from digits_jax.splits.folds import (
    holdout_split,
    inner_splits,
    kfold_splits,
    refit_split,
    writer_disjoint_split,
)
from digits_jax.splits.splitters import index_splits
from digits_jax.splits.stacked import (
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
from digits_jax.splits.validation import with_validation

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
