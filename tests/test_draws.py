"""A key for each source of chance: the same bits where they are equal, and no other effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import digits_jax as dj

DIGITS = dj.load_digits("bundled")
DATA = (DIGITS.images[:60], DIGITS.labels[:60])
SPLIT = dj.holdout_split(DATA[1], test_size=0.5, stratified=False)
NETWORK = dj.DigitsCNN(conv_features=(2,), dense_features=(8,), dropout_rate=0.25)
RECIPE = dj.Recipe(network=NETWORK, augment=dj.Jitter(shift=1.0), batch_size=16)
DRAWS = {"weights": 0, "order": 0, "dropout": 0, "augment": 0}


def _train(runs: dj.Run, recipe: dj.Recipe = RECIPE, **options: Any) -> dj.CrossValidation:
    return dj.cross_validate(DATA, runs, recipe=recipe, epochs=2, **options)


def _states(result: dj.CrossValidation) -> list[np.ndarray]:
    """Each run's parameters as one vector."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(result.states.params)]
    return [np.concatenate([leaf[i].ravel() for leaf in leaves]) for i in range(len(leaves[0]))]


def test_a_runs_own_numbers_give_the_bits_of_its_one_key() -> None:
    splits = dj.stack_splits(SPLIT, SPLIT, SPLIT)
    plain = _train(dj.make_runs(splits, seed=4))
    apart = _train(dj.make_runs(splits, seed=4, draws={"order": np.arange(3)}))
    for one, other in zip(_states(plain), _states(apart), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(plain.outputs, apart.outputs)


@pytest.mark.slow
def test_each_source_changes_what_it_is_of() -> None:
    sources = list(DRAWS)
    draws = {name: np.array([0, *(int(name == other) for other in sources), 0]) for name in sources}
    runs = dj.make_runs(dj.stack_splits(*[SPLIT] * 6), draws=draws)
    result = _train(runs)
    base, *changed, again = _states(result)
    np.testing.assert_array_equal(base, again)
    for one in changed:
        assert (one != base).any()
    # A network without dropout, augmentation and a second batch has no use for most keys.
    network = dj.DigitsCNN(conv_features=(2,), dense_features=(), dropout_rate=0.0)
    base, weights, _, *unused = _states(_train(runs, dj.Recipe(network=network, batch_size=30)))
    assert (weights != base).any()
    for one in unused:
        np.testing.assert_array_equal(one, base)


@pytest.mark.slow
def test_a_checkpoint_of_other_draws_is_refused(tmp_path: Path) -> None:
    splits = dj.stack_splits(SPLIT, SPLIT)
    runs = dj.make_runs(splits, draws={**DRAWS, "order": [0, 1]})
    _train(runs, checkpoints=tmp_path)
    other = dj.make_runs(splits, draws={**DRAWS, "order": [0, 2]})
    from digits_jax.storage.errors import CheckpointError

    with pytest.raises(CheckpointError, match="other random keys"):
        _train(other, checkpoints=tmp_path, resume=True)
    _train(runs, checkpoints=tmp_path, resume=True)


def test_a_design_is_crossed() -> None:
    design = dj.crossed(split=2, weights=3, order=2)
    cells = set(zip(*(each.tolist() for each in design.values()), strict=True))
    assert len(cells) == 12 == len(design["split"])
    assert design["order"].reshape(2, 3, 2)[1, 2].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": {"weight": 0}}, "there is no source 'weight'; there are weights, order"),
        ({"draws": {"order": [0, 1, 2]}}, r"draws\['order'\] must be integers \[2\]"),
        ({"draws": {"order": 0.5}}, r"draws\['order'\] must be integers \[2\]"),
        ({"draws": {"order": [0, -1]}}, r"draws\['order'\] must be 0 to"),
        ({"draws": {"order": 0}, "members": 2}, "give draws or members, not both"),
    ],
)
def test_errors(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dj.make_runs(dj.stack_splits(SPLIT, SPLIT), **arguments)


def test_keys_of_another_number_are_refused() -> None:
    runs = dj.make_runs(dj.stack_splits(SPLIT, SPLIT), draws=DRAWS)
    one: Any = dj.take_runs(runs.keys, [0])
    with pytest.raises(ValueError, match=r"^weights must be \[R, ...\], R = 2"):
        _train(runs._replace(keys=one))
