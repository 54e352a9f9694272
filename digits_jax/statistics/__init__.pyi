# The public names, and where each comes from; `__init__.py` loads each at its first use.

from .clusters import cluster_interval
from .comparisons import (
    McNemarResult,
    TTestResult,
    corrected_resampled_ttest,
    holm_correction,
    mcnemar_test,
)
from .equivalence import Equivalence, bayesian_correlated_ttest
from .intervals import (
    Summary,
    prediction_interval,
    summarize,
    wilson_interval,
)
from .nested import NestedInterval, nested_interval
from .planning import half_width, power, smallest_difference
from .variance import Component, variance_components

__all__ = [
    "Component",
    "Equivalence",
    "McNemarResult",
    "NestedInterval",
    "Summary",
    "TTestResult",
    "bayesian_correlated_ttest",
    "cluster_interval",
    "corrected_resampled_ttest",
    "half_width",
    "holm_correction",
    "mcnemar_test",
    "nested_interval",
    "power",
    "prediction_interval",
    "smallest_difference",
    "summarize",
    "variance_components",
    "wilson_interval",
]
