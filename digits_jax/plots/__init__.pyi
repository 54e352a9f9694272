# The public names, and where each comes from; `__init__.py` loads each at its first use.

from .classes import confusion_matrix, reliability_diagram, roc_curves
from .experiments import estimates, series
from .files import places, save, svg
from .images import class_means, digit_sheet, embedding, pixel_statistics
from .layers import feature_maps, filters, saliency
from .methods import common_errors, differences, method_scores
from .searches import effects, pair
from .style import styled
from .training import fold_scores, learning_curves

__all__ = [
    "class_means",
    "common_errors",
    "confusion_matrix",
    "differences",
    "digit_sheet",
    "effects",
    "embedding",
    "estimates",
    "feature_maps",
    "filters",
    "fold_scores",
    "learning_curves",
    "method_scores",
    "pair",
    "pixel_statistics",
    "places",
    "reliability_diagram",
    "roc_curves",
    "saliency",
    "save",
    "series",
    "styled",
    "svg",
]
