"""Nested cross-validation in one call, and the simulation of how often its interval holds."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import digits_jax as dj
from digits_jax.runs.nested import leave_two_out, nested_cross_validate
from digits_jax.statistics import nested_interval

SCRIPT = Path(__file__).parents[1] / "experiments" / "coverage.py"
DIGITS = dj.load_digits("bundled")


@pytest.fixture(scope="module")
def coverage() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("coverage")


def test_splits_leave_out_each_fold_and_each_two() -> None:
    splits, fold = leave_two_out(DIGITS.labels, 4, repeats=2, seed=3, stratified=True)
    plain = dj.kfold_splits(DIGITS.labels, 4, repeats=2, seed=3)
    assert len(splits.train_rows) == 20
    combinations = [(k,) for k in range(4)] + list(itertools.combinations(range(4), 2))
    for run in range(20):
        repeat, which = divmod(run, 10)
        real = splits.train_weights[run] > 0
        trains = np.sort(splits.train_rows[run][real])
        expected = np.flatnonzero(~np.isin(fold[repeat], combinations[which]))
        np.testing.assert_array_equal(trains, expected)
        if which < 4:
            tested = plain.test_rows[4 * repeat + which]
            assert (fold[repeat, tested] == which).all()


def test_one_call_is_the_interval_of_its_runs() -> None:
    rows, folds = 90, 3
    inputs, labels = DIGITS.images[:rows], DIGITS.labels[:rows]
    network = dj.DigitsCNN(conv_features=(2,), dense_features=(), dropout_rate=0.0)
    recipe = dj.Recipe(network=network, batch_size=16)
    options = {"folds": folds, "repeats": 2, "seed": 5, "stratified": False}
    h = dj.Hyperparameters(learning_rate=0.03)
    found = nested_cross_validate((inputs, labels), h, recipe=recipe, epochs=3, **options)

    splits, fold = leave_two_out(labels, folds, repeats=2, seed=5, stratified=False)
    runs = dj.make_runs(splits, h, seed=5)
    result = dj.cross_validate((inputs, labels), runs, recipe=recipe, epochs=3)
    outer, inner = np.zeros((2, rows)), np.zeros((2, rows, folds))
    combinations = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    for run in range(12):
        repeat, left_out = run // 6, combinations[run % 6]
        for row, logits in zip(result.test_rows[run], result.outputs[run], strict=True):
            if row >= 0:
                right = float(logits.argmax() == labels[row])
                if len(left_out) == 1:
                    outer[repeat, row] = right
                else:
                    other = [k for k in left_out if k != fold[repeat, row]]
                    inner[repeat, row, other[0]] = right
    assert found == nested_interval(outer, inner, fold)
    assert 0.1 < found.mean < 1

    with pytest.raises(ValueError, match="^there is no score 'f1'; there are loss, accuracy$"):
        nested_cross_validate((inputs, labels), recipe=recipe, metric="f1")
    with pytest.raises(ValueError, match="^nested cross-validation needs at least three folds"):
        nested_cross_validate((inputs, labels), recipe=recipe, folds=2)


def test_the_simulations_truth_and_its_fits(coverage: ModuleType) -> None:
    chance = np.random.default_rng(0)
    x, y = coverage.draw(chance, 80, 6)
    weights = coverage.fitted(x, y)
    new_x, new_y = coverage.draw(chance, 400_000, 6)
    sampled = ((new_x @ weights > 0) == (new_y > 0)).mean()
    assert coverage.accuracy(weights) == pytest.approx(sampled, abs=0.003)  # 4 sigma
    outer, inner, fold = coverage.cross_validated(chance, x, y, 3, 2)
    for r, i in itertools.product(range(2), range(80)):
        for k in range(3):
            rows = (fold[r] != fold[r, i]) & (fold[r] != k)
            right = (x[i] @ coverage.fitted(x[rows], y[rows]) > 0) == (y[i] > 0)
            assert right == (outer[r, i] if k == fold[r, i] else inner[r, i, k])


def test_nested_intervals_hold_their_level_where_plain_ones_do_not(
    coverage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    words = ["--rows", "60", "--trials", "100", "--repeats", "20", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    coverage.command_line.run(coverage.Config, coverage.main, coverage.__doc__)
    results = json.loads((tmp_path / "results.json").read_text())
    plain, _, nested = results["settings"]["60"]["held"]["fitted to all"]
    assert nested >= 88 and nested > plain
    assert (tmp_path / "coverage.png").stat().st_size > 5000
