"""Figures of arrays: each function takes arrays and returns a matplotlib ``Figure``.

``save`` writes a figure. No function touches pyplot or global settings. Figures are as wide as one
or two columns of a paper; their colours stay apart for colour-blind readers. Shapes: N rows, R
runs, E epochs, K classes, M methods, C configurations. Pixels are ink counts, 0 to 16, drawn dark
on light.
"""

from digits_jax.plots.classes import confusion_matrix, reliability_diagram, roc_curves
from digits_jax.plots.files import places, save, svg
from digits_jax.plots.images import class_means, digit_sheet, embedding, pixel_statistics
from digits_jax.plots.layers import feature_maps, filters, saliency
from digits_jax.plots.methods import common_errors, differences, method_scores
from digits_jax.plots.searches import effects, pair
from digits_jax.plots.style import styled
from digits_jax.plots.training import fold_scores, learning_curves

__all__ = [
    "class_means",
    "common_errors",
    "confusion_matrix",
    "differences",
    "digit_sheet",
    "effects",
    "embedding",
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
    "styled",
    "svg",
]
