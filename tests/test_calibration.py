"""Temperatures and Brier scores against scikit-learn's, and the file beside the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics

import digits_jax as dj
from digits_jax.calibration import (
    brier_score,
    fit_temperature,
    load_temperatures,
    save_temperatures,
)
from digits_jax.runs.temperatures import fit_temperatures

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (500, 4))
LABELS = np.array([RANDOM.choice(4, p=softmax(row / 2.5)) for row in LOGITS])


def _loss(temperature: float) -> float:
    scaled = log_softmax(LOGITS / temperature, axis=1)
    return -float(scaled[np.arange(500), LABELS].mean())


def test_the_temperature_has_the_highest_likelihood() -> None:
    found = fit_temperature(LOGITS, LABELS)
    assert found == pytest.approx(2.5, rel=0.2)  # of which the labels were drawn
    grid = np.geomspace(0.5, 10, 2000)
    assert found == pytest.approx(grid[np.argmin([_loss(t) for t in grid])], rel=2e-3)
    assert fit_temperature(3 * LOGITS + 7, LABELS) == pytest.approx(3 * found, rel=1e-5)


def test_the_temperature_is_scikit_learns() -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    scaling = getattr(calibration, "_TemperatureScaling", None)
    if scaling is None:
        pytest.skip("scikit-learn before 1.8 has no temperature scaling")
    theirs = scaling().fit(LOGITS, LABELS)
    assert fit_temperature(LOGITS, LABELS) == pytest.approx(1 / theirs.beta_, rel=1e-3)


def test_rows_that_are_all_right_or_all_wrong_go_to_an_end() -> None:
    sure = 5 * np.eye(3)[[0, 1, 2, 0]]
    assert fit_temperature(sure, [0, 1, 2, 0]) < 0.2
    assert fit_temperature(sure, [1, 2, 0, 1]) > 50


def test_the_brier_score_is_scikit_learns() -> None:
    shares = softmax(LOGITS, axis=1)
    by_class = sum(sklearn_metrics.brier_score_loss(LABELS == k, shares[:, k]) for k in range(4))
    assert brier_score(LABELS, shares) == pytest.approx(by_class, rel=1e-12)
    assert brier_score([0, 1], [[0, 1], [1, 0]]) == 2


def test_temperatures_are_those_of_one_epoch(tmp_path: Path) -> None:
    assert load_temperatures(tmp_path, epoch=3) == {}
    save_temperatures(tmp_path, {"fold 1": 0.6, "refit": 1.25}, epoch=3)
    assert load_temperatures(tmp_path, epoch=3) == {"fold 1": 0.6, "refit": 1.25}
    assert load_temperatures(tmp_path, epoch=4) == {}
    with pytest.raises(ValueError, match="^the temperature of a must be positive and finite"):
        save_temperatures(tmp_path, {"a": 0.0}, epoch=3)


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"epoch": 1}', json.dumps({"epoch": 1, "temperatures": {"a": -1}})]
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "temperatures.json").write_text(content)
    with pytest.raises(ValueError, match="temperatures.json is damaged .*; delete it"):
        load_temperatures(tmp_path, epoch=1)


def test_errors() -> None:
    for call in (fit_temperature, lambda values, labels: brier_score(labels, values)):
        with pytest.raises(ValueError, match=r"^there must be \[N, K\] values"):
            call(LOGITS, LABELS[:3])
        with pytest.raises(ValueError, match=r"^labels must be in 0\.\.3"):
            call(LOGITS, LABELS + 1)
        with pytest.raises(ValueError, match="^labels must be integers"):
            call(LOGITS, LABELS / 1)
        with pytest.raises(ValueError, match="must be finite"):
            call(LOGITS * np.nan, LABELS)


@pytest.mark.slow
def test_temperatures_of_runs_are_of_their_validation_rows(tmp_path: Path) -> None:
    digits = dj.load_digits("bundled")
    data = (digits.images[:200], digits.labels[:200])
    splits = dj.kfold_splits(data[1], 2)
    with_rows = dj.with_validation(splits, 0.3, stratify=data[1])
    network = dj.DigitsCNN(conv_features=(2,), dense_features=(), dropout_rate=0.0)
    recipe = dj.Recipe(network=network, batch_size=16)
    runs = dj.make_runs(dj.stack_splits(with_rows, dj.refit_split(data[1])))
    result = dj.cross_validate(data, runs, recipe=recipe, epochs=2)
    found = fit_temperatures(result, data, recipe=recipe)
    for run in range(2):
        real = with_rows.validation_weights[run] > 0
        rows = with_rows.validation_rows[run][real]
        h = dj.take_run(runs.hyperparameters, run)
        logits = dj.predict(result.state(run), data[0][rows], h, recipe=recipe)
        assert found[run] == pytest.approx(fit_temperature(logits, data[1][rows]), rel=1e-4)
    assert np.isnan(found[2])  # the refit has none
    plain = dj.cross_validate(data, dj.make_runs(splits), recipe=recipe, epochs=1)
    with pytest.raises(ValueError, match="^temperatures are fitted on validation rows"):
        fit_temperatures(plain, data, recipe=recipe)
