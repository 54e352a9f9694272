"""One run: steps, epochs, sums, keys, and what padding must not touch."""

from __future__ import annotations

import functools
import re
from collections import Counter
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from digits_jax.augment import Jitter
from digits_jax.evaluation import eval_step as eager_eval_step
from digits_jax.evaluation import evaluate as eager_evaluate
from digits_jax.evaluation import predict as eager_predict
from digits_jax.losses import cross_entropy
from digits_jax.model import DigitsCNN
from digits_jax.networks import NetworkWithHyperparameters, as_network
from digits_jax.optimizers import Hyperparameters, adam
from digits_jax.recipe import Recipe
from digits_jax.splits import Split
from digits_jax.step_counts import steps_in_all
from digits_jax.structures import Batch, Data, Run, TrainState
from digits_jax.train import init_state as eager_init_state
from digits_jax.train import train_epoch as eager_train_epoch
from digits_jax.train import train_epochs as eager_train_epochs
from digits_jax.train import train_step as eager_train_step

# Compiled, as anybody would use them: operation by operation each test would take a minute.
_jit = functools.partial(jax.jit, static_argnames="recipe")
init_state, train_step, eval_step = map(_jit, (eager_init_state, eager_train_step, eager_eval_step))
evaluate, predict, train_epoch = map(_jit, (eager_evaluate, eager_predict, eager_train_epoch))
train_epochs = jax.jit(eager_train_epochs, static_argnames=("recipe", "epochs"))

SMALL = DigitsCNN(conv_features=(4,), dense_features=(16,))
QUIET = SMALL.clone(dropout_rate=0.0)


@pytest.fixture(scope="module")
def data() -> Data:
    """300 rows whose label can be seen: a bright row of pixels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, 300).astype(np.int32)
    images = rng.integers(0, 5, (300, 8, 8)).astype(np.uint8)
    images[np.arange(300), labels] += 11
    return Data(jnp.asarray(images), jnp.asarray(labels))


def _split(train: int, test: int = 0, padding: int = 0) -> Split:
    rows = np.arange(train + test, dtype=np.int32)
    return Split(
        np.pad(rows[:train], (0, padding), mode="edge"),
        np.pad(np.ones(train, np.float32), (0, padding)),
        rows[train:],
        np.ones(test, np.float32),
    )


def _run(split: Split, seed: int = 0, **numbers: Any) -> Run:
    return Run(split, Hyperparameters(**numbers), jax.random.key(seed))


def _batch(data: Data, rows: slice | Any, weights: Any = None) -> Batch:
    images, labels = jnp.asarray(data.inputs)[rows], jnp.asarray(data.targets)[rows]
    return Batch(images, labels, jnp.ones(len(labels)) if weights is None else weights)


def _assert_equal(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, left, right)


def _assert_close(left: Any, right: Any, rtol: float = 2e-5, atol: float = 1e-6) -> None:
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(close, left, right)


def test_adam_is_that_of_keras() -> None:
    params, grad = np.array([1.0, -2.0, 0.5]), np.array([0.3, -1e-6, 0.0])
    optimizer = adam(Hyperparameters())
    state = optimizer.init(jnp.asarray(params))
    m = v = np.zeros(3)
    got = jnp.asarray(params)
    for t in range(1, 4):
        updates, state = optimizer.update(jnp.asarray(grad), state, got)
        got = optax.apply_updates(got, updates)
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        step = 1e-3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)  # as keras.optimizers.Adam writes it
        params = params - step * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(got, params, rtol=1e-6)


def test_weight_decay_is_decoupled() -> None:
    optimizer = adam(Hyperparameters(learning_rate=0.1, weight_decay=0.5))
    params = jnp.array([2.0])
    updates, _ = optimizer.update(jnp.array([0.0]), optimizer.init(params), params)
    np.testing.assert_allclose(updates, [-0.1 * 0.5 * 2.0], rtol=1e-6)


def test_cross_entropy_is_minus_the_log_probability() -> None:
    logits, labels = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), jnp.array([0, 2])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log([probabilities[0, 0], 1 / 3])
    np.testing.assert_allclose(cross_entropy(logits, labels, None), expected, rtol=1e-6)
    smooth = cross_entropy(logits, labels, Hyperparameters(label_smoothing=0.3))
    mixed = 0.7 * expected[0] - 0.1 * np.log(probabilities[0]).sum()
    np.testing.assert_allclose(smooth[0], mixed, rtol=1e-6)


def test_a_step_follows_the_gradient_of_the_mean_loss(data: Data) -> None:
    recipe = Recipe(network=QUIET, optimizer=lambda h: optax.sgd(h.learning_rate))
    run = _run(_split(300), learning_rate=0.1)
    state = init_state(run, data, recipe=recipe)
    batch = _batch(data, slice(0, 32))

    @jax.jit
    @jax.value_and_grad
    def slope(params: Any) -> jax.Array:
        logits = QUIET.apply({"params": params}, batch.inputs)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets))

    after, sums = train_step(state, batch, run.hyperparameters, run.key, recipe=recipe)
    loss, gradient = slope(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, gradient)
    _assert_close(after.params, expected)
    np.testing.assert_allclose(sums.means()["loss"], loss, rtol=1e-6)
    assert (int(after.step), float(sums.weight)) == (1, 32)


def test_padding_rows_touch_nothing(data: Data) -> None:
    recipe = Recipe(network=QUIET)
    run = _run(_split(300))
    state = init_state(run, data, recipe=recipe)
    weights = jnp.array([1.0] * 20 + [0.0] * 12)
    padded = _batch(data, np.r_[0:20, 100:112], weights)
    alone = _batch(data, np.r_[0:20])
    step = functools.partial(train_step, recipe=recipe)
    got, got_sums = step(state, padded, run.hyperparameters, run.key)
    expected, sums = step(state, alone, run.hyperparameters, run.key)
    _assert_close(got.opt_state, expected.opt_state)
    _assert_close(got_sums, sums)
    score = functools.partial(eval_step, state, recipe=recipe)
    _assert_close(score(padded), score(alone))


def test_evaluation_counts_each_test_row_once(data: Data) -> None:
    recipe = Recipe(network=SMALL, batch_size=16)  # 50 = 3 * 16 + 2
    run = _run(_split(250, 50))
    state = init_state(run, data, recipe=recipe)
    sums, logits = evaluate(state, run, data, recipe=recipe)
    direct = predict(state, jnp.asarray(data.inputs)[250:], recipe=recipe)
    np.testing.assert_allclose(logits, direct, rtol=1e-5, atol=1e-5)
    labels = jnp.asarray(data.targets)[250:]
    assert float(sums.weight) == 50
    assert float(sums.totals["accuracy"]) == float((direct.argmax(1) == labels).sum())
    np.testing.assert_allclose(
        sums.totals["loss"], cross_entropy(direct, labels, None).sum(), rtol=1e-5
    )


def test_an_epoch_takes_each_training_row_once_in_a_new_order(data: Data) -> None:
    seen: list[np.ndarray] = []

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False, mask: Any = None) -> Any:
            if train:
                jax.debug.callback(lambda i, m: seen.append(i[m]), images[:, 0, 0], mask)
            return nn.Dense(10)(images.reshape(len(images), -1).astype(jnp.float32))

    numbered = Data(jnp.arange(300.0).reshape(300, 1, 1), data.targets)
    recipe = Recipe(network=Spy(), batch_size=64)
    run = _run(_split(200, padding=30))
    state = init_state(run, numbered, recipe=recipe)
    state, sums = train_epoch(state, run, numbered, recipe=recipe)
    jax.effects_barrier()
    assert (int(state.step), float(sums.weight)) == (4, 200)  # 200 = 3 * 64 + 8
    assert sorted(map(len, seen)) == [8, 64, 64, 64]
    first = np.concatenate(seen)
    assert sorted(first) == list(range(200)) and list(first) != list(range(200))
    seen.clear()
    train_epoch(state, run, numbered, recipe=recipe)
    jax.effects_barrier()
    second = np.concatenate(seen)
    assert sorted(second) == list(range(200)) and list(second) != list(first)


def test_a_split_with_whole_batches_of_padding_trains_as_without(data: Data) -> None:
    recipe = Recipe(network=QUIET, batch_size=64)
    plain, padded = _run(_split(200)), _run(_split(200, padding=90))
    state = init_state(plain, data, recipe=recipe)
    # The shuffle draws for the padding too, so only the sums over an epoch of no learning agree.
    still = Hyperparameters(learning_rate=0.0)
    (a, a_sums), (b, b_sums) = (
        train_epoch(state, run._replace(hyperparameters=still), data, recipe=recipe)
        for run in (plain, padded)
    )
    assert int(a.step) == int(b.step) == 4
    _assert_close(a_sums, b_sums)
    _assert_equal(a.params, b.params)


def test_scan_equals_a_loop_and_continues_bitwise(data: Data) -> None:
    recipe = Recipe(network=SMALL, batch_size=100)
    run = _run(_split(300))
    start = init_state(run, data, recipe=recipe)
    state, parts = start, []
    for _ in range(4):
        state, part = train_epochs(state, run, data, recipe=recipe, epochs=1)
        parts.append(part)
    two, head = train_epochs(start, run, data, recipe=recipe, epochs=2)
    again, tail = train_epochs(two, run, data, recipe=recipe, epochs=2)
    _assert_close(again, state)
    losses = [part["loss"] for part in (head, tail)]
    _assert_close(jnp.concatenate(losses), jnp.concatenate([part["loss"] for part in parts]))
    once_more, same_tail = train_epochs(two, run, data, recipe=recipe, epochs=2)
    _assert_equal((again, tail), (once_more, same_tail))


def test_training_learns(data: Data) -> None:
    recipe = Recipe(network=QUIET.clone(dense_activation=nn.relu), batch_size=50)
    run = _run(_split(250, 50), learning_rate=3e-3)
    state = init_state(run, data, recipe=recipe)
    state, history = train_epochs(state, run, data, recipe=recipe, epochs=15)
    sums, _ = evaluate(state, run, data, recipe=recipe)
    assert float(history["loss"][-1]) < 0.5 * float(history["loss"][0])
    assert float(sums.means()["accuracy"]) > 0.8


def test_the_traced_dropout_rate_replaces_the_fields(data: Data) -> None:
    batch = _batch(data, slice(0, 32))
    run = _run(_split(300), dropout_rate=0.0)
    noisy = Recipe(network=NetworkWithHyperparameters(SMALL))
    quiet = Recipe(network=QUIET)
    state = init_state(run, data, recipe=noisy)
    step = functools.partial(train_step, state, batch, key=run.key)
    got, _ = step(run.hyperparameters, recipe=noisy)
    expected, _ = step(Hyperparameters(), recipe=quiet)
    other, _ = step(Hyperparameters(), recipe=noisy)
    _assert_close(got.params, expected.params)
    assert not np.allclose(got.params["logits"]["kernel"], other.params["logits"]["kernel"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'dropout_rate'"):
        step(run.hyperparameters, recipe=Recipe(network=NetworkWithHyperparameters(nn.Dense(10))))


def test_augmentation_gets_a_key_a_step(data: Data) -> None:
    def shift(key: jax.Array, images: jax.Array, labels: jax.Array, h: Any) -> Any:
        return images + jax.random.uniform(key, (), maxval=5.0), labels

    recipe = Recipe(network=QUIET, augment=shift)
    run = _run(_split(300))
    state = init_state(run, data, recipe=recipe)
    step = functools.partial(
        train_step, state, _batch(data, slice(0, 32)), run.hyperparameters, recipe=recipe
    )
    losses = {float(step(jax.random.key(seed))[1].totals["loss"]) for seed in (0, 1)}
    assert len(losses) == 2


class BatchNormNet(nn.Module):
    """A small network with batch statistics that leaves padding rows out of them."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, mask: Any = None) -> jax.Array:
        x = nn.Dense(16, use_bias=False)(images.reshape(len(images), -1).astype(jnp.float32))
        mask = None if mask is None else mask.reshape(-1, 1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x, mask=mask)
        return nn.Dense(10)(nn.relu(x))


def test_batch_statistics_train_under_vmap_and_ignore_padding(data: Data) -> None:
    recipe = Recipe(network=BatchNormNet(), batch_size=64)
    runs = [_run(_split(200), seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)

    def train_one(run: Run) -> tuple[TrainState, Any]:
        state = eager_init_state(run, data, recipe=recipe)
        return eager_train_epochs(state, run, data, recipe=recipe, epochs=3)

    train = jax.jit(train_one)
    together, history = jax.jit(jax.vmap(train_one))(stacked)
    assert (np.asarray(history["loss"])[:, -1] < np.asarray(history["loss"])[:, 0]).all()
    assert not np.allclose(together.collections["batch_stats"]["BatchNorm_0"]["mean"], 0)
    for i, run in enumerate(runs):
        alone, _ = train(run)
        _assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, 1e-3, 1e-4)

    state = init_state(runs[0], data, recipe=recipe)
    weights = jnp.array([1.0] * 20 + [0.0] * 12)
    step = functools.partial(train_step, recipe=recipe)
    args = (runs[0].hyperparameters, runs[0].key)
    padded, _ = step(state, _batch(data, np.r_[0:20, 100:112], weights), *args)
    alone, _ = step(state, _batch(data, np.r_[0:20]), *args)
    _assert_close(padded.collections, alone.collections)


def test_averaged_weights_are_those_of_a_plain_loop_and_predict(data: Data) -> None:
    recipe = Recipe(network=BatchNormNet(), average=lambda h: h.average_decay)
    run = _run(_split(300), average_decay=0.6)
    state = init_state(run, data, recipe=recipe)
    average = jax.tree.map(np.asarray, {"params": state.params, "collections": state.collections})
    for step in range(1, 30):
        key = jax.random.fold_in(run.key, step)
        batch = _batch(data, slice(10 * step % 250, 10 * step % 250 + 32))
        state, _ = train_step(state, batch, run.hyperparameters, key, recipe=recipe)
        decay = min(0.6, step / (step + 9))  # 0.1, 0.18, ... and 0.6 from step 14 on
        new = {"params": state.params, "collections": state.collections}
        average = jax.tree.map(
            lambda old, new, d=decay: d * old + (1 - d) * np.asarray(new), average, new
        )
    _assert_close(state.average, average, 1e-5, 1e-6)
    images = jnp.asarray(data.inputs)[:20]
    logits = predict(state, images, recipe=recipe)
    variables = {"params": average["params"], **average["collections"]}
    _assert_close(logits, recipe.network.apply(variables, images), 1e-4, 1e-5)
    last = predict(state._replace(average={}), images, recipe=recipe)
    assert not np.allclose(logits, last, atol=1e-3)


def test_an_image_gets_the_mean_of_its_views_probabilities(data: Data) -> None:
    def views(images: jax.Array) -> jax.Array:
        return jnp.stack([images, images[:, ::-1], 2 * images])

    plain, viewed = Recipe(network=QUIET), Recipe(network=QUIET, views=views)
    run = _run(_split(200, 100, padding=7))
    state, _ = train_epochs(init_state(run, data, recipe=plain), run, data, recipe=plain, epochs=2)
    images = jnp.asarray(data.inputs)
    probabilities = [jax.nn.softmax(predict(state, x, recipe=plain)) for x in views(images)]
    logits = predict(state, images, recipe=viewed)
    np.testing.assert_allclose(jnp.exp(logits), sum(probabilities) / 3, rtol=1e-5, atol=1e-7)
    sums, tested = evaluate(state, run, data, recipe=viewed)
    np.testing.assert_allclose(tested, logits[200:], rtol=1e-5, atol=1e-5)
    losses = -np.asarray(logits)[np.arange(200, 300), np.asarray(data.targets)[200:]]
    assert float(sums.totals["loss"]) == pytest.approx(losses.sum(), rel=1e-5)
    trained = train_epochs(init_state(run, data, recipe=viewed), run, data, recipe=viewed, epochs=2)
    _assert_equal(trained[0].params, state.params)  # training sees no views


def test_without_a_decay_there_is_no_average_and_zero_averages_nothing(data: Data) -> None:
    recipe = Recipe(network=SMALL, average=lambda h: h.average_decay)
    batch = _batch(data, slice(0, 32))
    plain, zero = _run(_split(300)), _run(_split(300), average_decay=0.0)
    got = []
    for run in (plain, zero):
        state = init_state(run, data, recipe=recipe)
        state, _ = train_step(state, batch, run.hyperparameters, run.key, recipe=recipe)
        got.append(state)
    assert got[0].average == {}
    _assert_equal(got[1].average["params"], got[0].params)
    _assert_equal(got[1].params, got[0].params)


def test_equal_recipes_share_a_program(data: Data) -> None:
    traced = []

    @functools.partial(jax.jit, static_argnames="recipe")
    def init(run: Run, recipe: Recipe) -> TrainState:
        traced.append(recipe)
        return eager_init_state(run, data, recipe=recipe)

    run = _run(_split(300))
    for rate in (1e-3, 1e-2):
        numbers = Hyperparameters(learning_rate=rate)
        init(run._replace(hyperparameters=numbers), Recipe(network=DigitsCNN(width=0.25)))
    assert len(traced) == 1


def test_a_batch_may_be_larger_than_the_split(data: Data) -> None:
    """It is then one batch of all rows: one step an epoch, and no more memory."""
    run, got = _run(_split(50, 20)), []
    for size in (50, 51, 2**31 - 1):
        recipe = Recipe(network=QUIET, batch_size=size)
        state = init_state(run, data, recipe=recipe)
        state, history = train_epochs(state, run, data, recipe=recipe, epochs=3)
        got.append((state.params, history, evaluate(state, run, data, recipe=recipe)))
        assert int(state.step) == 3
    _assert_equal(got[0], got[1])
    _assert_equal(got[0], got[2])


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be 1 to 2\\^31 - 1, not 0"):
        Recipe(batch_size=0)


def test_every_product_of_a_step_has_the_recipes_precision(data: Data) -> None:
    run = _run(_split(300))
    batch = Batch(data.inputs[:8], data.targets[:8], jnp.ones(8))
    counts = {}
    for precision in (None, "highest"):
        recipe = Recipe(network=SMALL, augment=Jitter(rotation=5.0), precision=precision)
        state = jax.eval_shape(functools.partial(eager_init_state, recipe=recipe), run, data)
        step = functools.partial(eager_train_step, recipe=recipe)
        with jax.default_matmul_precision(None):  # whatever the environment asks for
            lowered = jax.jit(step).lower(state, batch, run.hyperparameters, run.key)
        products = re.findall(r"dot_general.*?precision = \[(\w+), (\w+)\]", lowered.as_text())
        counts[precision] = Counter(products)
    assert set(counts[None]) == {("DEFAULT", "DEFAULT")}
    assert set(counts["highest"]) == {("HIGHEST", "HIGHEST")}
    assert sum(counts["highest"].values()) == sum(counts[None].values()) > 8


@pytest.mark.parametrize("batch_norm", [False, True])
def test_where_every_batch_is_a_step_the_condition_is_spared(data: Data, batch_norm: bool) -> None:
    recipe = Recipe(network=SMALL.clone(batch_norm=batch_norm), batch_size=32)
    runs = jax.tree.map(lambda *leaves: np.stack(leaves), *(_split(n) for n in (100, 100)))
    known = functools.partial(steps_in_all, recipe=recipe, network=as_network(recipe.network, None))
    state = init_state(_run(_split(100)), data, recipe=recipe)
    assert known(runs, collections=state.collections)
    padded = jax.tree.map(
        lambda *leaves: np.stack(leaves), _split(100, padding=28), _split(97, padding=31)
    )
    # One row is a step for the first network, and none for batch statistics.
    assert known(padded, collections=state.collections) is not batch_norm
    assert not known(
        padded._replace(train_weights=padded.train_weights * [[1], [0]]),
        collections=state.collections,
    )
    train = jax.jit(eager_train_epoch, static_argnames=("recipe", "all_steps"))
    one, other = (
        train(state, _run(_split(100)), data, recipe=recipe, all_steps=all_steps)
        for all_steps in (False, True)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)
