"""What a result says: scores, summaries with error bars, members that vote, divergence."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from digits_jax.data import load_digits
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.runs.axis import make_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation, diverged_since
from digits_jax.search.spaces import grid
from digits_jax.splits import index_splits, kfold_splits, refit_split, stack_splits
from digits_jax.statistics import summarize


class Linear(nn.Module):
    """Logits of the pixels."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10, name="logits")(images.reshape(len(images), -1) / 16.0)


RECIPE = Recipe(network=Linear(), batch_size=64)
FAST = Hyperparameters(learning_rate=1e-2)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """300 of the bundled rows."""
    digits = load_digits("bundled")
    return digits.images[:300], digits.labels[:300]


@pytest.fixture(scope="module")
def result(data: Any) -> CrossValidation:
    """Four folds and a refit."""
    splits = stack_splits(kfold_splits(data[1], 4), refit_split(data[1]))
    return cross_validate(data, make_runs(splits, FAST), recipe=RECIPE, epochs=8)


def test_a_summary_knows_its_splits_and_leaves_the_refit_out(result: CrossValidation) -> None:
    got = result.summary("accuracy")
    values = result.scores["accuracy"][:4]
    expected = summarize(values, train_rows=225, test_rows=75)
    assert (got.mean, got.sd, got.n, got.diverged) == (expected.mean, expected.std, 4, ())
    np.testing.assert_allclose(got.ci95, expected.ci95)
    assert "95 % interval" in str(got) and "4 runs" in str(got)
    assert "(1 run)" in str(result.summary("accuracy", runs=[0]))
    two = result.summary("accuracy", runs=[0, 2])
    assert two.mean == pytest.approx(values[[0, 2]].mean())
    with pytest.raises(KeyError, match="there are loss, accuracy"):
        result.summary("f1")
    with pytest.raises(ValueError, match="a refit has none"):
        result.summary("accuracy", runs=[4])


def test_different_configurations_are_not_averaged(data: Any) -> None:
    h = grid(Hyperparameters(learning_rate=[1e-2, 3e-2]))
    runs = make_runs(kfold_splits(data[1], 2), configurations=h)
    result = cross_validate(data, runs, recipe=RECIPE, epochs=2)
    with pytest.raises(ValueError, match="differ in the hyperparameter learning_rate"):
        result.summary("accuracy")
    assert result.summary("accuracy", runs=slice(0, 2)).n == 2


def test_time_series_get_no_corrected_interval(data: Any) -> None:
    from sklearn.model_selection import TimeSeriesSplit

    splits = index_splits(TimeSeriesSplit(3).split(data[0]))
    result = cross_validate(data, make_runs(splits, FAST), recipe=RECIPE, epochs=2)
    got = result.summary("accuracy")
    assert np.isnan(got.ci95).all() and got.note


def test_any_metric_of_scikit_learn(data: Any, result: CrossValidation) -> None:
    def right(targets: np.ndarray, outputs: np.ndarray) -> float:
        return float(accuracy_score(targets, outputs.argmax(1)))

    def macro_f1(targets: np.ndarray, outputs: np.ndarray) -> float:
        return float(f1_score(targets, outputs.argmax(1), average="macro"))

    np.testing.assert_allclose(result.score(right)[:4], result.scores["accuracy"][:4])
    got = result.score(macro_f1)
    rows = result.test_rows[1][result.test_rows[1] >= 0]
    predicted = result.outputs[1].argmax(1)[result.test_rows[1] >= 0]
    assert got[1] == pytest.approx(f1_score(data[1][rows], predicted, average="macro"))
    assert np.isnan(got[4])  # the refit has no test rows


def test_short_words_and_tables(result: CrossValidation, data: Any) -> None:
    text = repr(result)
    assert len(text) < 120 and "5 runs (4 tested), 8 epochs" in text and "accuracy 0." in text
    table: Any = result.table()
    rows = table if isinstance(table, list) else table.to_dict("records")
    assert len(rows) == 5 and rows[0]["h.learning_rate"] == pytest.approx(1e-2)
    predictions: Any = result.predictions()
    rows = predictions if isinstance(predictions, list) else predictions.to_dict("records")
    assert sorted(row["row"] for row in rows) == list(range(300))  # out of fold, each row once
    for row in rows[:5]:
        assert row["target"] == data[1][row["row"]] and "output_9" in row


def test_members_vote(data: Any) -> None:
    splits = kfold_splits(data[1], 2)
    runs = make_runs(splits, FAST, members=3)
    result = cross_validate(data, runs, recipe=RECIPE, epochs=6)
    assert len(result.epochs) == 6 and result.votes is not None
    alone = cross_validate(data, make_runs(splits, FAST), recipe=RECIPE, epochs=6)
    np.testing.assert_allclose(result.scores["loss"][:2], alone.scores["loss"], rtol=1e-4)
    for fold in range(2):
        logits = result.outputs[fold::2]  # [M, S, K]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares = (shares / shares.sum(-1, keepdims=True)).mean(0)
        real = result.test_rows[fold] >= 0
        right = shares.argmax(1)[real] == data[1][result.test_rows[fold][real]]
        assert result.votes["accuracy"][fold] == pytest.approx(right.mean())
    assert len(np.unique(result.scores["loss"])) == 6  # all members differ
    assert alone.votes is None


def test_a_run_that_explodes_has_diverged_and_one_that_works_has_not(data: Any) -> None:
    h = Hyperparameters(learning_rate=[1e-2, 1e5, 1e-9])
    result = cross_validate(data, make_runs(kfold_splits(data[1], 3), h), recipe=RECIPE, epochs=6)
    assert result.diverged[1] > 0 and result.diverged[[0, 2]].tolist() == [0, 0]
    summary = result.summary("accuracy", runs=[1])
    assert summary.diverged == (1,)
    assert "diverged" in str(summary) and "1 diverged" in repr(result)


def test_a_scaled_loss_is_no_divergence(data: Any) -> None:
    def scaled(outputs: Any, targets: Any, h: Any) -> Any:
        from digits_jax.losses import cross_entropy

        return 1000 * cross_entropy(outputs, targets, h)

    recipe = Recipe(network=Linear(), batch_size=64, loss=scaled)
    result = cross_validate(
        data, make_runs(kfold_splits(data[1], 2), FAST), recipe=recipe, epochs=6
    )
    assert result.history["loss"][:, 0].min() > 100 and not result.diverged.any()


def test_divergence_is_counted_from_the_last_trained_epoch() -> None:
    nan = np.nan
    loss = [[2, 1, 0.5, 0.4], [2, 9, 9, 9], [2, nan, 1, 0.9], [2, 1, nan, nan], [2, 9, nan, nan]]
    since = diverged_since(loss, [2.3] * 5, [4, 4, 4, 2, 2], [True] * 5)
    assert since.tolist() == [0, 2, 0, 0, 2]
    assert diverged_since([[2, 1]], [2.3], [2], [False]).tolist() == [2]
