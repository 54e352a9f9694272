"""Probabilities that one can use: a temperature for logits, and how far probabilities are off.

Everything here is NumPy float64 on the host. N is the number of predictions, K of classes; classes
are the integers 0..K-1.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from digits_jax.storage.files import whole_file

FILE = "temperatures.json"


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature T for which softmax(logits / T) gives the labels the highest likelihood.

    Every probability changes, no prediction does: the largest logit stays the largest. Above 1 the
    network was too sure, below 1 not sure enough, as one trained with label smoothing is. Fit it on
    rows that neither train nor test, such as validation rows.

    Args:
        logits: [N, K], finite; logarithms of probabilities will do.
        labels: integers [N], the classes.

    Returns:
        T, between 0.01 and 100. Where every row is right, ever smaller ones are better, down to a
        loss of 0; where rows are wrong throughout, ever larger ones.

    Raises:
        ValueError: the shapes don't fit, a label is out of range, or a logit is not finite.

    Reference:
        Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks, ICML 34,
        section 4.2.

    Examples:
        >>> from digits_jax.metrics import probabilities
        >>> logits = [[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]
        >>> temperature = fit_temperature(logits, [0, 0, 1, 1])  # right in three of four
        >>> round(temperature, 3), probabilities(np.divide(logits, temperature)).max().round(3)
        (1.82, np.float64(0.75))
    """
    values, classes = np.asarray(logits, np.float64), np.asarray(labels)
    _check(values, classes)
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows = np.arange(len(classes))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(values / math.exp(log_temperature), axis=1)
        return -float(scaled[rows, classes].mean())

    # The loss is convex in 1/T, so that it has one minimum in log T.
    ends = (math.log(0.01), math.log(100))
    best = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-7})
    return math.exp(float(best.x))


def brier_score(labels: npt.ArrayLike, shares: npt.ArrayLike) -> float:
    """Mean over rows of the squared distance between probabilities and the one-hot class, 0..2.

    Args:
        labels: integers [N], the classes.
        shares: probabilities [N, K].

    Returns:
        0 where every row's class has probability 1; 2 where another has.

    Raises:
        ValueError: the shapes don't fit, a label is out of range, or a probability is not finite.

    Reference:
        Brier (1950), Verification of Forecasts Expressed in Terms of Probability, Monthly Weather
        Review 78:1-3.

    Examples:
        >>> round(brier_score([0, 1], [[0.8, 0.2], [0.4, 0.6]]), 2)
        0.2
    """
    values, classes = np.asarray(shares, np.float64), np.asarray(labels)
    _check(values, classes)
    right = np.eye(values.shape[1])[classes]
    return float(((values - right) ** 2).sum(axis=1).mean())


def save_temperatures(
    folder: str | os.PathLike[str], temperatures: Mapping[str, float], *, epoch: int
) -> None:
    """Writes the temperature of each run beside its checkpoints, as ``temperatures.json``.

    Args:
        folder: of the checkpoints.
        temperatures: by the names of the runs.
        epoch: that the weights they are for had reached: the largest `epoch` of the states.

    Raises:
        ValueError: a temperature is not positive and finite.
        OSError: it can't be written.
    """
    for name, value in temperatures.items():
        if not 0 < value < math.inf:
            raise ValueError(f"the temperature of {name} must be positive and finite, not {value}")
    content = json.dumps({"epoch": epoch, "temperatures": dict(temperatures)}, indent=2)
    with whole_file(Path(folder) / FILE) as path:
        path.write_text(content + "\n", encoding="utf-8")


def load_temperatures(folder: str | os.PathLike[str], *, epoch: int) -> dict[str, float]:
    """The temperatures that were saved beside checkpoints; {} where there are none for this epoch.

    Args:
        folder: of the checkpoints.
        epoch: that the weights that predict have reached; others have other temperatures.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {str(name): float(value) for name, value in content["temperatures"].items()}
        if not all(0 < value < math.inf for value in found.values()):
            raise ValueError("a temperature is not positive")
        return found if content["epoch"] == epoch else {}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, or fit it again") from error


def _check(values: npt.NDArray[np.float64], classes: npt.NDArray[Any]) -> None:
    if values.ndim != 2 or classes.shape != values.shape[:1] or not len(classes):
        raise ValueError(
            f"there must be [N, K] values and [N] labels, got {values.shape} and {classes.shape}"
        )
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {classes.dtype}")
    if not ((classes >= 0) & (classes < values.shape[1])).all():
        raise ValueError(f"labels must be in 0..{values.shape[1] - 1}")
    if not np.isfinite(values).all():
        raise ValueError("logits and probabilities must be finite")
