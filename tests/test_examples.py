"""The examples of a user's own network, optimizer, loss and data, as they are imported and run."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from digits_jax import CrossValidation, Recipe, ScoreSummary, load_states

FOLDER = Path(__file__).parents[1] / "experiments" / "examples"


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples can be imported, as from a notebook beside them."""
    monkeypatch.syspath_prepend(FOLDER)


def _assert_is_whole(result: CrossValidation, *, folds: int, epochs: int, rows: int) -> None:
    assert result.history["loss"].shape == (folds + 1, epochs)
    assert np.isfinite(result.history["loss"]).all()
    assert np.isfinite(result.scores["accuracy"][:folds]).all()
    assert np.isnan(result.scores["accuracy"][folds])
    tested = result.test_rows[:folds]
    assert sorted(tested[tested >= 0]) == list(range(rows))


@pytest.mark.slow
def test_own_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import own_network

    result, scores = own_network.main(epochs=3, folds=2, checkpoints=tmp_path)
    _assert_is_whole(result, folds=2, epochs=3, rows=1797)
    assert isinstance(scores, ScoreSummary)
    assert scores.mean == pytest.approx(np.mean(result.scores["accuracy"][:2]))
    assert scores.mean > 0.8 and scores.n == 2
    mean, variance = (result.states.collections["batch_stats"]["norm"][k] for k in ("mean", "var"))
    assert mean.shape == variance.shape == (3, 128)
    assert not np.allclose(mean, 0) and not np.allclose(variance, 1)
    recipe = Recipe(network=own_network.NormedPerceptron())
    saved = load_states(tmp_path, recipe=recipe)
    jax.tree.map(np.testing.assert_array_equal, saved.states, result.states)
    np.testing.assert_array_equal(saved.hyperparameters.learning_rate, np.float32(1e-3))
    printed = capsys.readouterr().out
    assert f"accuracy of 2 folds: {100 * scores.mean:.2f} ± " in printed
    assert "95 % interval of the mean: " in printed and "row 0 is a 0; the refit reads " in printed


@pytest.mark.slow
def test_own_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import own_optimizer

    results = own_optimizer.main(epochs=2, folds=2, checkpoints=tmp_path)
    assert list(results) == ["adam", "nesterov"]
    for name, result in results.items():
        _assert_is_whole(result, folds=2, epochs=2, rows=1797)
        saved = {path.name for path in (tmp_path / name).iterdir() if path.is_dir()}
        assert saved == {"1", "2"}
    np.testing.assert_array_equal(*(result.test_rows for result in results.values()))
    assert results["nesterov"].scores["accuracy"][:2].min() > 0.3
    printed = capsys.readouterr().out
    assert "adam: " in printed and "difference: " in printed and "p = " in printed


@pytest.mark.slow
def test_own_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import own_data

    result, confusion = own_data.main(epochs=4, folds=2, checkpoints=tmp_path)
    _assert_is_whole(result, folds=2, epochs=4, rows=1000)
    assert result.outputs.shape == (3, 500, 4)
    assert confusion.shape == (4, 4) and confusion.sum() == 1000
    assert np.trace(confusion) / 1000 == pytest.approx(result.scores["accuracy"][:2].mean())
    assert result.scores["accuracy"][:2].mean() > 0.4  # chance is 0.25
    assert "blue column" in capsys.readouterr().out


@pytest.mark.slow
def test_population(capsys: pytest.CaptureFixture[str]) -> None:
    import population

    source = (FOLDER / "population.py").read_text().split("def main")[1].split("if __name__")[0]
    assert len(source.splitlines()) <= 40
    result = population.main(rounds=2, epochs=1, population=4)
    assert result.states.epoch.tolist() == [2] * 4
    printed = capsys.readouterr().out
    assert "round 2: best validation loss" in printed and "test accuracy of the best" in printed
