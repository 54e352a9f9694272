"""robustness.py: nested training sets in proportion, harms of the size they name, true scores."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import digits_jax as dj

SCRIPT = Path(__file__).parents[1] / "experiments" / "robustness.py"


@pytest.fixture(scope="module")
def robustness() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("robustness")


def test_training_sets_are_nested_and_in_proportion(robustness: ModuleType) -> None:
    digits = dj.load_digits("bundled")
    config = robustness.Config(seeds=2, rows=(100, 40))
    inputs, labels, splits, sizes = robustness.design(config, *digits.data)
    assert sizes == [40, 100, 1437] and len(splits.train_rows) == 6
    assert len(inputs) == len(labels) == 1797 + 2 * 16 * 360
    for seed in range(2):
        small, middle, whole = (
            set(splits.train_rows[3 * seed + i][splits.train_weights[3 * seed + i] > 0].tolist())
            for i in range(3)
        )
        assert small < middle < whole and len(small) == 40
        for chosen in (small, middle):
            counts = np.bincount(labels[sorted(chosen)], minlength=10)
            assert np.abs(counts - len(chosen) / 10).max() <= 1.5
        real = splits.test_weights[3 * seed + 2] > 0
        tested = splits.test_rows[3 * seed + 2][real]
        assert not set(tested.tolist()) & whole and len(tested) == 17 * 360
        np.testing.assert_array_equal(labels[tested].reshape(17, 360)[5], labels[tested[:360]])


def test_harms_are_of_their_size(robustness: ModuleType) -> None:
    images = dj.load_digits("bundled").images[:50]
    chance = np.random.default_rng(0)
    for name in robustness.HARMS:
        np.testing.assert_array_equal(robustness.harm(images, name, 0, chance), images)
    ink = np.full((400, 8, 8), 8, np.uint8)
    noisy = robustness.harm(ink, "Noise (sd, ink counts)", 2, chance)
    assert noisy.std() == pytest.approx(2, abs=0.1)
    gone = robustness.harm(ink, "Square left out (pixels)", 3, chance)
    assert ((gone == 0).sum(axis=(1, 2)) == 9).all()
    dot = np.zeros((200, 8, 8), np.uint8)
    dot[:, 3:5, 3:5] = 16
    moved = robustness.harm(dot, "Shift (pixels)", 2, chance).astype(float)
    grid = np.arange(8.0)
    centres = [
        (m.sum(axis=1) @ grid / m.sum() - 3.5, m.sum(axis=0) @ grid / m.sum() - 3.5) for m in moved
    ]
    np.testing.assert_allclose(np.hypot(*np.transpose(centres)), 2, atol=0.25)


def test_a_small_run(
    robustness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    words = "--data bundled --methods knn1 --seeds 1 --rows 100 --output-dir".split()
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, str(tmp_path)])
    with joblib.parallel_config("sequential"):
        robustness.command_line.run(robustness.Config, robustness.main, robustness.__doc__)
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["knn1"]
    digits = dj.load_digits("bundled")
    config = robustness.Config(seeds=1, rows=(100,))
    inputs, labels, splits, _ = robustness.design(config, *digits.data)
    pixels, test = inputs.reshape(len(inputs), -1), splits.test_rows[1]
    for run, key, block in ((0, "Training rows", 0), (1, "Training rows", 0), (1, "Noise", 12)):
        train = splits.train_rows[run][splits.train_weights[run] > 0]
        model = KNeighborsClassifier(1).fit(pixels[train], labels[train])
        rows = test[360 * block : 360 * (block + 1)]
        title = next(each for each in found if each.startswith(key))
        got = found[title][run if block == 0 else -1][0]
        assert got == pytest.approx(model.score(pixels[rows], labels[rows]))
    assert found["Shift (pixels)"][0] == found["Training rows"][-1]
