"""One training run, written plainly: nothing here knows of folds or devices.

Every function is pure, can be jitted and vmapped, and takes an ``Recipe`` (what is static)
apart from a ``Run`` (what is traced, and may differ between the runs of one program).

Shapes: N rows of the data set, T training rows of a split, S test rows, B batch, K classes,
E epochs. ``images`` stands for [N, H, W] or [N, H, W, C].
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from digits_jax.losses import check_labels
from digits_jax.optimizers import Hyperparameters, Params
from digits_jax.recipe import Recipe
from digits_jax.splits import Split


class Examples(NamedTuple):
    """A data set: what all runs of a program share.

    Attributes:
        images: numbers [N, H, W] or [N, H, W, C].
        labels: integers [N], classes 0 to K - 1.
    """

    images: ArrayLike
    labels: ArrayLike


class Batch(NamedTuple):
    """The rows of one step. Rows of weight 0 are padding, and touch nothing.

    Attributes:
        images: numbers [B, H, W] or [B, H, W, C].
        labels: int32 [B].
        weights: float32 [B], 1 for a row that counts and 0 for padding.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Sums(NamedTuple):
    """What a step or an evaluation counted, to be divided once at the end.

    Attributes:
        loss: float32 scalar, the sum over rows, nats.
        correct: float32 scalar, rows whose largest logit is their class's.
        rows: float32 scalar, rows of weight 1.
    """

    loss: jax.Array
    correct: jax.Array
    rows: jax.Array


class History(NamedTuple):
    """Means over the rows of each epoch, as Keras reports them: dropout on, weights moving.

    Attributes:
        loss: float32 [E], nats.
        accuracy: float32 [E], 0..1.
    """

    loss: jax.Array
    accuracy: jax.Array


class TrainState(NamedTuple):
    """All that training changes. It carries no random key: see ``epoch_key``.

    Attributes:
        params: the network's parameters, a pytree of arrays.
        collections: the network's other Flax collections, e.g. batch_stats; {} if it has none.
        opt_state: optax's, a pytree of arrays.
        step: int32 scalar, optimizer steps taken.
        average: averaged params and collections; {} without ``average_decay``.
    """

    params: Params
    collections: Any
    opt_state: optax.OptState
    step: jax.Array
    average: Any = {}


class Run(NamedTuple):
    """One training run; stacked on a leading axis R to make many.

    Attributes:
        split: the rows that train and test.
        hyperparameters: scalars.
        key: typed PRNG key: initial weights, shuffles, dropout, augmentation.
    """

    split: Split
    hyperparameters: Hyperparameters
    key: jax.Array


def init_state(run: Run, data: Examples, *, recipe: Recipe) -> TrainState:
    """The state before the first step. ``data`` only gives the shape of an image."""
    images = jnp.zeros((1, *jnp.shape(data.images)[1:]), jnp.asarray(data.images).dtype)
    variables = dict(recipe.network.init(jax.random.fold_in(run.key, 0), images, train=False))
    params = variables.pop("params")
    opt_state = recipe.optimizer(run.hyperparameters).init(params)
    averaged = run.hyperparameters.average_decay is not None
    average = {"params": params, **variables} if averaged else {}
    return TrainState(params, variables, opt_state, jnp.zeros((), jnp.int32), average)


def epoch_key(run: Run, epoch: ArrayLike) -> jax.Array:
    """The key of an epoch, derived from the run's key alone.

    So a resumed run draws what an uninterrupted run would have drawn.
    """
    return jax.random.fold_in(jax.random.fold_in(run.key, 1), epoch)


def train_step(
    state: TrainState,
    batch: Batch,
    hyperparameters: Hyperparameters,
    key: jax.Array,
    *,
    recipe: Recipe,
) -> tuple[TrainState, Sums]:
    """One optimizer step on the mean loss over the batch's rows of weight 1.

    Args:
        state: the state before the step.
        batch: at least one row must have weight 1.
        hyperparameters: numbers, traced or not.
        key: typed PRNG key of this step alone.
        recipe: the static part.

    Returns:
        The state after the step, and the sums over the batch before it (with dropout on).

    Examples:
        A loop of one's own, on the rows that come with scikit-learn:

        >>> import jax
        >>> from digits_jax import Batch, Examples, Recipe, Hyperparameters, Run
        >>> from digits_jax import init_state, load_digits, refit_split, train_step
        >>> digits = load_digits("bundled")
        >>> data = Examples(digits.images, digits.labels)
        >>> recipe, hyperparameters = Recipe(), Hyperparameters(learning_rate=3e-3)
        >>> split = jax.tree.map(lambda rows: rows[0], refit_split(digits.labels))
        >>> run = Run(split, hyperparameters, jax.random.key(0))
        >>> state = init_state(run, data, recipe=recipe)
        >>> step = jax.jit(train_step, static_argnames="recipe")
        >>> batch = Batch(digits.images[:128], digits.labels[:128], jax.numpy.ones(128))
        >>> for i in range(60):
        ...     key = jax.random.fold_in(run.key, i)
        ...     state, sums = step(state, batch, hyperparameters, key, recipe=recipe)
        >>> bool(sums.correct / sums.rows > 0.5)
        True
    """
    _check_batch(batch)
    network = _with_dropout_rate(recipe.network, hyperparameters)
    dropout_key, augment_key = jax.random.split(key)
    images = batch.images
    if recipe.augment is not None:
        images = recipe.augment(augment_key, images)
    rows = jnp.sum(batch.weights)

    def mean_loss(params: Params) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        logits, collections = network.apply(
            {"params": params, **state.collections},
            images,
            train=True,
            mask=batch.weights > 0,
            rngs={"dropout": dropout_key},
            mutable=list(state.collections),
        )
        loss = jnp.sum(recipe.loss(logits, batch.labels, hyperparameters) * batch.weights)
        return loss / rows, (logits, collections)

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (logits, collections)), grads = gradient(state.params)
    updates, opt_state = recipe.optimizer(hyperparameters).update(
        grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    sums = Sums(loss * rows, _correct(logits, batch), rows)
    stepped = TrainState(params, dict(collections), opt_state, state.step + 1, state.average)
    if hyperparameters.average_decay is not None:
        stepped = stepped._replace(average=_averaged(stepped, hyperparameters.average_decay))
    return stepped, sums


def _averaged(state: TrainState, decay: ArrayLike) -> dict[str, Any]:
    """The exponential moving average of weights and collections, after ``state.step`` steps.

    ``average = d * average + (1 - d) * new`` with d = min(decay, step / (step + 9)), so that the
    initial weights are soon forgotten: (1 + t) / (10 + t) of TensorFlow's
    ``ExponentialMovingAverage`` with its ``num_updates`` t = step - 1.
    """
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, step / (step + 9))
    new = {"params": state.params, **state.collections}
    average: dict[str, Any] = jax.tree.map(
        lambda old, new: new + decay * (old - new), state.average, new
    )
    return average


def _check_batch(batch: Batch) -> None:
    """What is wrong with shapes and dtypes; values may be traced."""
    images, labels, weights = (jnp.shape(each) for each in batch)
    if not (len(images) >= 3 and labels == weights == images[:1]):
        raise ValueError(
            "a batch must be images [B, H, W] or [B, H, W, C], labels [B] and weights [B]; their "
            f"shapes are {images}, {labels} and {weights}"
        )
    check_labels(batch.labels)


def _check_run(run: Run, data: Examples) -> None:
    """What is wrong with shapes and dtypes; values may be traced."""
    images, labels = jnp.shape(data.images), jnp.shape(data.labels)
    if not (len(images) in (3, 4) and labels == images[:1]):
        raise ValueError(
            "data must be images [N, H, W] or [N, H, W, C] and labels [N]; their shapes are "
            f"{images} and {labels}"
        )
    check_labels(data.labels)
    for part in ("train", "test"):
        rows, weights = (jnp.shape(getattr(run.split, f"{part}_{x}")) for x in ("rows", "weights"))
        if len(rows) != 1 or rows != weights:
            raise ValueError(
                f"one run's split has {part}_rows and {part}_weights [rows], not {rows} and "
                f"{weights}; take one of stacked runs with jax.tree.map(lambda x: x[i], runs)"
            )


def _with_dropout_rate(network: nn.Module, hyperparameters: Hyperparameters) -> nn.Module:
    """The network with the hyperparameters' dropout rate, where they give one."""
    if hyperparameters.dropout_rate is None:
        return network
    if not hasattr(network, "dropout_rate"):
        raise ValueError(
            f"hyperparameters.dropout_rate is set, but {type(network).__name__} has no field "
            "dropout_rate; leave it None, or add the field"
        )
    return network.clone(dropout_rate=hyperparameters.dropout_rate)


def _correct(logits: jax.Array, batch: Batch) -> jax.Array:
    return jnp.sum((jnp.argmax(logits, axis=-1) == batch.labels) * batch.weights)


def predict(state: TrainState, images: ArrayLike, *, recipe: Recipe) -> jax.Array:
    """Logits [B, K] of images [B, H, W] or [B, H, W, C], dropout off.

    Of the averaged weights where the state has them, else of the last ones. Where the recipe
    has ``views``, they are the logarithms of the class probabilities, mean over an image's views.

    Raises:
        ValueError: `state` is that of many runs.
    """
    if jnp.ndim(state.step):
        raise ValueError(
            f"state is that of {len(state.step)} runs; take one of them, with "
            "jax.tree.map(lambda leaf: leaf[i], states)"
        )
    variables = state.average or {"params": state.params, **state.collections}

    def logits_of(images: jax.Array) -> jax.Array:
        return cast(jax.Array, recipe.network.apply(variables, images, train=False))

    images = jnp.asarray(images)
    if recipe.views is None:
        return logits_of(images)
    views = recipe.views(images)
    count, rows = views.shape[:2]
    shares = jax.nn.log_softmax(logits_of(views.reshape(-1, *views.shape[2:])))
    return jax.nn.logsumexp(shares.reshape(count, rows, -1), axis=0) - jnp.log(count)


def eval_step(state: TrainState, batch: Batch, *, recipe: Recipe) -> Sums:
    """Loss and correct answers over the batch's rows of weight 1, dropout off."""
    _check_batch(batch)
    return _score(predict(state, batch.images, recipe=recipe), batch, recipe)


def _score(logits: jax.Array, batch: Batch, recipe: Recipe) -> Sums:
    losses = recipe.loss(logits, batch.labels, None)
    loss = jnp.sum(jnp.where(batch.weights > 0, losses, 0.0) * batch.weights)
    return Sums(loss, _correct(logits, batch), jnp.sum(batch.weights))


def train_epoch(
    state: TrainState, run: Run, data: Examples, *, recipe: Recipe
) -> tuple[TrainState, Sums]:
    """One pass over the split's training rows, in an order drawn for this epoch.

    The epoch's number comes from ``state.step``. Where splits of different sizes are stacked,
    batches that hold nothing but padding are no steps: they change nothing.

    Returns:
        The state after the epoch, and the sums over its rows.
    """
    _check_run(run, data)
    weights = jnp.asarray(run.split.train_weights)
    size = recipe.batch_size
    steps = jnp.maximum(-(-jnp.sum(weights > 0) // size), 1)  # optimizer steps of this run's epoch
    key = epoch_key(run, state.step // steps)
    shuffle_key, step_key = jax.random.split(key)
    rows, weights = _shuffle(shuffle_key, run.split, size)

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[TrainState, Sums]:
        i, rows, weights = batch

        def train(state: TrainState) -> tuple[TrainState, Sums]:
            return train_step(
                state,
                _gather(data, rows, weights),
                run.hyperparameters,
                jax.random.fold_in(step_key, i),
                recipe=recipe,
            )

        def skip(state: TrainState) -> tuple[TrainState, Sums]:
            return state, Sums(*(jnp.zeros(()) for _ in Sums._fields))

        stepped: tuple[TrainState, Sums] = lax.cond(jnp.any(weights > 0), train, skip, state)
        return stepped

    state, sums = lax.scan(step, state, (jnp.arange(len(rows)), rows, weights))
    return state, Sums(*(jnp.sum(each) for each in sums))


def _shuffle(key: jax.Array, split: Split, size: int) -> tuple[jax.Array, jax.Array]:
    """Training rows and weights in random order, padding last, as batches [steps, size]."""
    rows, weights = jnp.asarray(split.train_rows), jnp.asarray(split.train_weights)
    draw = jax.random.bits(key, rows.shape, jnp.uint32)
    # Sorting is stable and padding comes last in a split, so an equal draw keeps it last.
    order = jnp.argsort(jnp.where(weights > 0, draw, jnp.uint32(0xFFFFFFFF)))
    return _batches(rows[order], weights[order], size)


def _batches(rows: jax.Array, weights: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Rows and weights cut into batches; the last is filled up with its last row at weight 0.

    A size above the number of rows gives one batch of all rows, and no padding to that size.
    """
    size = max(1, min(size, rows.shape[0]))
    missing = -rows.shape[0] % size
    shape = (-(-rows.shape[0] // size), size)
    rows = jnp.pad(rows, (0, missing), mode="edge").reshape(shape)
    return rows, jnp.pad(weights, (0, missing)).reshape(shape)


def _gather(data: Examples, rows: jax.Array, weights: jax.Array) -> Batch:
    return Batch(jnp.asarray(data.images)[rows], jnp.asarray(data.labels)[rows], weights)


def train_epochs(
    state: TrainState, run: Run, data: Examples, *, recipe: Recipe, epochs: int
) -> tuple[TrainState, History]:
    """``epochs`` more epochs from ``state.step`` on, as a scan over ``train_epoch``.

    Returns:
        The state after them, and the history of these epochs alone, [E].
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")

    def epoch(state: TrainState, _: None) -> tuple[TrainState, History]:
        state, sums = train_epoch(state, run, data, recipe=recipe)
        rows = jnp.maximum(sums.rows, 1)  # 0 only for a run without rows, whose means are then 0
        return state, History(sums.loss / rows, sums.correct / rows)

    return lax.scan(epoch, state, length=epochs)


def evaluate(
    state: TrainState, run: Run, data: Examples, *, recipe: Recipe
) -> tuple[Sums, jax.Array]:
    """The split's test rows, dropout off.

    Returns:
        The sums over the test rows, and the logits of each, float32 [S, K] (padding included).
    """
    _check_run(run, data)
    rows, weights = jnp.asarray(run.split.test_rows), jnp.asarray(run.split.test_weights)
    count = rows.shape[0]

    def step(_: None, batch: tuple[jax.Array, jax.Array]) -> tuple[None, tuple[Sums, jax.Array]]:
        gathered = _gather(data, *batch)
        logits = predict(state, gathered.images, recipe=recipe)
        return None, (_score(logits, gathered, recipe), logits)

    batches = _batches(rows, weights, recipe.batch_size)
    _, (sums, logits) = lax.scan(step, None, batches)
    return Sums(*(jnp.sum(each) for each in sums)), logits.reshape(-1, logits.shape[-1])[:count]
