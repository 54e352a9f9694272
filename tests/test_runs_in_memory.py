"""More runs than memory holds: the same numbers in waves, and each wave goes on by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

import digits_jax as dj
from digits_jax import environment
from digits_jax.runs.memory import runs_at_once

DIGITS = dj.load_digits("bundled")
DATA = (DIGITS.images[:150], DIGITS.labels[:150])


class Net(nn.Module):
    """The smallest there is: programs are quick to compile."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        return nn.Dense(10)(images.reshape(len(images), -1).astype("float32") / 16)


RECIPE = dj.Recipe(network=Net(), batch_size=50)
RUNS = dj.make_runs(
    dj.stack_splits(dj.kfold_splits(DATA[1], 4, stratified=False), dj.refit_split(DATA[1]))
)
NAMES = [f"fold {i}" for i in range(1, 5)] + ["refit"]


@pytest.mark.slow
def test_waves_give_the_same_numbers_also_when_they_go_on(tmp_path: Path) -> None:
    def in_waves(on_epoch: Callable[[dj.Progress], bool], resume: bool) -> dj.CrossValidation:
        return dj.cross_validate(
            DATA,
            RUNS,
            names=NAMES,
            recipe=RECIPE,
            epochs=2,
            wave_size=2,
            checkpoints=tmp_path,
            resume=resume,
            on_epoch=on_epoch,
        )

    def trained(progress: dj.Progress) -> list[int]:
        return np.flatnonzero(np.isfinite(progress.history["loss"][:, 0])).tolist()

    with pytest.raises(dj.Interrupted, match="stopped after 1 of 2 epochs"):
        in_waves(lambda progress: 2 in trained(progress), resume=False)
    seen: list[tuple[list[int], int]] = []

    def on_epoch(progress: dj.Progress) -> bool:
        seen.append((trained(progress), progress.epoch))
        return trained(progress) == [2, 3]

    # The second wave goes on in its middle; a stop in its last epoch keeps the third from starting.
    with pytest.raises(dj.Interrupted, match="after 2 of 2 epochs of 4 of 5 runs"):
        in_waves(on_epoch, resume=True)
    result = in_waves(on_epoch, resume=True)
    assert seen == [([2, 3], 2), ([4], 1), ([4], 2)]
    at_once = dj.cross_validate(DATA, RUNS, recipe=RECIPE, epochs=2)
    for name in ("history", "scores", "outputs", "test_rows", "targets", "epochs", "diverged"):
        expected, found = (jax.tree.leaves(getattr(each, name)) for each in (at_once, result))
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    assert result.summary("accuracy") == at_once.summary("accuracy")
    assert not jax.tree.leaves(result.states)
    saved = dj.load_states(tmp_path, recipe=RECIPE)  # of all waves
    assert saved.names == NAMES
    for one, other in zip(
        jax.tree.leaves(saved.states.params), jax.tree.leaves(at_once.states.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_size_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"recipe": RECIPE, "devices": jax.devices()[:1]}
    assert runs_at_once(RUNS, DATA, **options) is None
    monkeypatch.setattr(environment, "free_memory", lambda: 150_000)
    size = runs_at_once(RUNS, DATA, **options)
    assert size is not None and 1 <= size < 5
    monkeypatch.setattr(environment, "free_memory", lambda: 1_000)
    with pytest.raises(MemoryError, match=r"a run takes about 0\.0 GB, and 0\.0 GB are left"):
        runs_at_once(RUNS, DATA, **options)


def test_what_is_wrong_with_a_recipe_is_left_to_the_training() -> None:
    class Broken(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            raise TypeError("no such layer")

    assert runs_at_once(RUNS, DATA, recipe=dj.Recipe(network=Broken())) is None


def test_waves_need_a_place_to_be_kept() -> None:
    with pytest.raises(ValueError, match="wave_size needs checkpoints"):
        dj.cross_validate(DATA, RUNS, recipe=RECIPE, epochs=1, wave_size=2)
    with pytest.raises(ValueError, match="wave_size must be at least 1"):
        dj.cross_validate(DATA, RUNS, recipe=RECIPE, epochs=1, wave_size=0)
