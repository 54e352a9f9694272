"""Runs go in groups where a device's memory is too small for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from digits_jax import CrossValidation, cross_validate, kfold_splits, load_digits, make_runs
from digits_jax.recipe import Recipe
from digits_jax.runs import groups, programs
from digits_jax.runs.groups import Groups, OutOfMemory, even_group, needed_bytes

RUNS = 6


@pytest.mark.parametrize(
    ("lanes", "most", "size"), [(12, 12, 12), (12, 7, 6), (12, 1, 1), (13, 6, 5), (100, 34, 25)]
)
def test_groups_are_few_and_even(lanes: int, most: int, size: int) -> None:
    assert even_group(lanes, most) == size
    assert -(-lanes // size) <= -(-lanes // most) + 1


def _sizes(given: int, limit: int | None = None, **options: Any) -> tuple[Groups, list[Any]]:
    """A program of 12 runs, 8 kB of work each, and the sizes that it was compiled for."""
    tried: list[Any] = []

    def compile(size: int | None) -> Any:
        tried.append(size)
        count = 12 if size is None else size

        def work(x: jax.Array) -> jax.Array:
            counted = lax.broadcasted_iota(jnp.float32, (count, 2000), 1)
            return jnp.sort(jnp.sort(jnp.sin(counted * x)) + 1, axis=0).sum()

        return jax.jit(work).lower(1.0).compile()

    made = Groups(compile, size=given or None, lanes=12, limit=limit, what="training", **options)
    return made, tried


def test_a_group_is_chosen_by_what_xla_says_that_it_needs() -> None:
    free, tried = _sizes(0)
    needed = needed_bytes(free.program())
    assert tried == [None] and needed > 12 * 8000
    enough, tried = _sizes(0, needed)
    enough.program()
    assert tried == [None] and enough.size is None
    scarce, tried = _sizes(0, needed // 2)
    assert needed_bytes(scarce.program()) <= needed // 2
    assert tried[0] is None and tried[1:] == [scarce.size] and 4 <= int(scarce.size or 0) <= 6


def test_what_cannot_fit_says_how_many_runs_do() -> None:
    one = needed_bytes(_sizes(1)[0].program())
    scarce, _ = _sizes(0, one // 2)
    with pytest.raises(OutOfMemory, match=r"^out of memory: training of 12 runs .* about \d+ runs"):
        scarce.program()


def _exhausting(sizes: list[int | None], fits: int) -> Callable[[int | None], Any]:
    """Programs that run out of the host's memory, truly, where a group is larger than ``fits``."""

    def compile(size: int | None) -> Any:
        sizes.append(size)
        count = 12 if size is None else size
        rows = 2**45 if count > fits else 1

        def work(x: jax.Array) -> jax.Array:
            counted = lax.broadcasted_iota(jnp.float32, (2, rows), 0)
            return jnp.sort(jnp.sort(counted * x, axis=0) + 1).max()

        return jax.jit(work).lower(1.0).compile()

    return compile


def test_where_memory_runs_out_the_group_is_halved() -> None:
    sizes: list[int | None] = []
    made = Groups(_exhausting(sizes, 3), size=None, lanes=12, limit=None, what="training")
    fresh = iter([2.0, 3.0])
    assert made(1.0, again=lambda: (next(fresh),)) == 4.0  # of the arguments given last
    assert sizes == [None, 6, 3] and made.size == 3
    sizes.clear()
    assert made(1.0) == 2.0 and sizes == []


@pytest.mark.parametrize(("fits", "together"), [(0, False), (3, True)])
def test_where_nothing_helps_one_line_says_so(fits: int, together: bool) -> None:
    compile = _exhausting([], fits)
    made = Groups(compile, size=None, lanes=12, limit=None, what="evaluation", together=together)
    with pytest.raises(OutOfMemory, match="^out of memory: evaluation of 12 runs a device in"):
        made(1.0)


def test_other_errors_are_not_taken_for_it() -> None:
    def compile(size: int | None) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    made = Groups(compile, size=None, lanes=12, limit=None, what="training")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        made.program()


class Wide(nn.Module):
    """A step takes more memory than the states."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tile(x.reshape(len(x), -1) / 16, (1, 8))
        return nn.Dense(10)(jnp.sin(nn.Dense(8)(x)))


def _trained() -> CrossValidation:
    digits = load_digits("bundled")
    runs = make_runs(kfold_splits(digits.labels[:300], RUNS))
    recipe = Recipe(network=Wide())
    data = digits.images[:300], digits.labels[:300]
    return cross_validate(
        data, runs, recipe=recipe, epochs=2, vmap_size=RUNS, devices=jax.devices()[:1]
    )


def test_cross_validation_takes_groups_on_a_small_device(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device is a CPU that says it has a memory of its own; all the rest is as it is."""
    whole = _trained()
    seen: list[tuple[str, int]] = []
    needed = groups.needed_bytes

    def noted(program: Any) -> int:
        seen.append(("needed", needed(program)))
        return seen[-1][1]

    monkeypatch.setattr(groups, "needed_bytes", noted)
    monkeypatch.setattr(programs, "device_limit", lambda devices: 2**40)
    programs.forget_programs()
    roomy = _trained()
    largest = max(bytes for _, bytes in seen)
    assert not caplog.records and len(seen) == 2  # training and evaluation
    monkeypatch.setattr(programs, "device_limit", lambda devices: int(0.8 * largest))
    programs.forget_programs()
    grouped = _trained()
    programs.forget_programs()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "don't fit: training of the 6 runs of a device goes in groups of" in caplog.text
    for result, tolerance in ((roomy, 0), (grouped, 1e-5)):
        np.testing.assert_allclose(result.outputs, whole.outputs, rtol=tolerance, atol=tolerance)
        for name, values in whole.history.items():
            np.testing.assert_allclose(result.history[name], values, rtol=tolerance, atol=tolerance)
