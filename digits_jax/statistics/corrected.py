"""What intervals and tests share: the corrected variance, Student's interval, checks of scores."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of scores, relative: networks give float32


def standard_error(values: npt.NDArray[np.float64], ratio: float) -> float:
    """Standard error of the mean of J values, corrected for n_test / n_train; nan where J = 1."""
    if len(values) < 2:
        return math.nan
    return math.sqrt((1 / len(values) + ratio) * float(values.var(ddof=1)))


def t_interval(mean: float, error: float, freedom: int) -> tuple[float, float]:
    """Student's 95 % interval around a mean of that standard error."""
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, 0.975)) * error
    return mean - reach, mean + reach


def size_ratio(train_rows: float, test_rows: float) -> float:
    """n_test / n_train; refuses sizes that no split has."""
    if not (0 < train_rows < math.inf and 0 <= test_rows < math.inf):
        raise ValueError(
            f"train_rows must be positive and test_rows not negative: {train_rows}, {test_rows}"
        )
    return test_rows / train_rows


def all_equal(values: npt.NDArray[np.float64]) -> bool:
    """Equal but for the rounding of float64, or for what underflows."""
    rounding = 4 * np.finfo(np.float64).eps * np.abs(values).max()
    return bool(np.ptp(values) <= rounding or values.std() == 0)


def check_scores(name: str, scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Scores as float64 [J]; refuses other shapes, and what is not finite."""
    values = check_vector(name, scores)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name} must be finite, but {name}[{bad}] is {values[bad]}")
    return values


def check_vector(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Numbers as float64 [J]; refuses other shapes."""
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{name} must be 1-D and not empty, got shape {vector.shape}")
    return vector
