"""JAX's debugging switches hold in a small run, and two processes give the same bits."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from digits_jax import (
    CrossValidation,
    DigitsCNN,
    Hyperparameters,
    Interrupted,
    Recipe,
    cross_validate,
    holdout_split,
    kfold_splits,
    make_runs,
    refit_split,
    stack_splits,
)
from digits_jax.runs import programs

pytestmark = pytest.mark.slow  # all of JAX's debugging modes

LINEAR = Recipe(network=DigitsCNN(conv_features=(), dense_features=()), batch_size=32)
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, 8, 8] and labels [N]


@pytest.fixture(scope="module")
def data() -> Arrays:
    """60 rows, drawn at random."""
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 10
    return rng.integers(0, 17, (60, 8, 8)).astype(np.uint8), labels


@pytest.fixture
def switch() -> Iterator[Any]:
    """Sets one of JAX's options for a test."""
    before: dict[str, Any] = {}

    def set_(name: str, value: Any) -> None:
        before[name] = getattr(jax.config, name)
        jax.config.update(name, value)

    yield set_
    for name, value in before.items():
        jax.config.update(name, value)


def _train(data: Arrays, recipe: Recipe = LINEAR, **options: Any) -> CrossValidation:
    """Two folds and a refit, on two devices: the runs axis is padded to four."""
    labels = data[1]
    runs = make_runs(stack_splits(kfold_splits(labels, 2), refit_split(labels)))
    options = {"epochs": 2, "devices": jax.devices()[:2], **options}
    return cross_validate(data, runs, recipe=recipe, **options)


def test_nothing_is_moved_between_host_and_device_unasked(
    data: Arrays, switch: Any, tmp_path: Path
) -> None:
    expected = _train(data)
    switch("jax_transfer_guard", "disallow")
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        jax.numpy.ones(3) + np.ones(3, np.float32)  # the guard is on
    with pytest.raises(Interrupted):
        _train(data, checkpoints=tmp_path, on_epoch=lambda progress: progress.epoch == 1)
    got = _train(data, checkpoints=tmp_path, resume=True)
    np.testing.assert_array_equal(got.outputs, expected.outputs)


def test_no_tracer_leaks(data: Arrays, switch: Any) -> None:
    expected = _train(data)
    switch("jax_check_tracer_leaks", True)
    programs.forget_programs()  # what is compiled already is not traced again
    np.testing.assert_array_equal(_train(data).outputs, expected.outputs)


def test_nan_debugging_passes_a_sound_run_and_stops_at_a_nan(data: Arrays, switch: Any) -> None:
    options: dict[str, Any] = {"recipe": LINEAR, "epochs": 2}
    wild = make_runs(kfold_splits(data[1], 2), Hyperparameters(learning_rate=3e38))
    assert np.isnan(cross_validate(data, wild, **options).history["loss"]).any(axis=1).all()
    sound = _train(data)
    switch("jax_debug_nans", True)
    np.testing.assert_allclose(_train(data).outputs, sound.outputs, rtol=1e-5, atol=1e-5)
    with pytest.raises(FloatingPointError, match="nan"):
        cross_validate(data, wild, **options)


def test_it_runs_without_jit(data: Arrays, switch: Any) -> None:
    options: dict[str, Any] = {"recipe": LINEAR, "epochs": 1, "devices": jax.devices()[:1]}
    runs = make_runs(holdout_split(data[1]))
    expected = cross_validate(data, runs, **options)
    switch("jax_disable_jit", True)
    got = cross_validate(data, runs, **options)
    np.testing.assert_allclose(got.outputs, expected.outputs, rtol=1e-5, atol=1e-5)


def digest() -> str:
    """Of every bit of a small cross-validation's result."""
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int32) % 10
    images = rng.integers(0, 17, (60, 8, 8)).astype(np.uint8)
    recipe = Recipe(network=DigitsCNN(conv_features=(4,), dense_features=()), batch_size=32)
    result = _train((images, labels), recipe)
    assert not result.diverged.any()
    hashed = hashlib.sha256()
    leaves = jax.tree.leaves([v for k, v in vars(result).items() if k not in ("runs", "seconds")])
    assert len(leaves) > 12
    for leaf in leaves:
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()


def test_two_processes_give_the_same_bits() -> None:
    program = "import conftest, test_debugging; print(test_debugging.digest())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == digest() == digest()
