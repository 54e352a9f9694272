"""One training run, written plainly: nothing here knows of folds or devices.

Every function is pure, can be jitted and vmapped, and takes a ``Recipe`` (what is static) apart
from what is traced, which may differ between the runs of one program.

Shapes: N rows of the data set, T training rows of a split, B rows of a batch, E epochs. Inputs,
targets and outputs are arrays or pytrees of arrays with these as their leading axis.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from digits_jax.evaluation import evaluate, metric_totals
from digits_jax.networks import Variables, as_network, named_arguments, with_mask
from digits_jax.recipe import Recipe
from digits_jax.splits import Split
from digits_jax.step_counts import fewest_rows
from digits_jax.structures import (
    Batch,
    Best,
    Data,
    Keys,
    Params,
    Run,
    Sums,
    TrainState,
    check_batch,
    check_run,
    gather,
    in_batches,
    without_absent,
)
from digits_jax.watch import Watch, has_stopped, watched, weights_of


def init_state(
    run: Run,
    data: Data,
    *,
    recipe: Recipe,
    params: Params | None = None,
    watch: Watch | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        run: gives the key and the hyperparameters.
        data: only the shapes and dtypes of a row count.
        recipe: the static part.
        params: to start from, instead of what the key draws.
        watch: what training will watch; see ``train_epochs``.
    """
    h = run.hyperparameters
    inputs = jax.tree.map(
        lambda x: jnp.zeros((1, *x.shape[1:]), jax.dtypes.canonicalize_dtype(x.dtype)), data.inputs
    )
    with recipe.in_precision():
        network = as_network(recipe.network, h)
        variables = network.init(jax.random.fold_in(run.sources().weights, 0), inputs, h)
    if params is not None:
        variables = variables._replace(params=params)
    opt_state = recipe.make_optimizer(h, run.steps).init(variables.params)
    average = variables._asdict() if _average_decay(recipe, h) is not None else {}
    zero, infinite = jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, jnp.float32)
    state = TrainState(*variables, opt_state, zero, zero, average, infinite)
    if watch is None:
        return state
    weights = weights_of(state) if watch.keep_best else {}
    return state._replace(best=Best(infinite, zero, weights))


def _average_decay(recipe: Recipe, h: Any) -> Any:
    return None if recipe.average is None else recipe.average(h)


def state_shapes(run: Run, data: Data, *, recipe: Recipe) -> TrainState:
    """Shapes and dtypes of a run's state, for whatever number of steps.

    Some optax schedules take a plain int alone, so that is what the optimizer gets here.
    """

    def init(run: Run, data: Data) -> TrainState:
        return init_state(run._replace(steps=_SOME_STEPS), data, recipe=recipe)

    shapes: TrainState = jax.eval_shape(init, run._replace(steps=None), data)
    return shapes


_SOME_STEPS = 10_000


def epoch_keys(run: Run, epoch: ArrayLike) -> Keys:
    """The keys of an epoch, derived from the run's keys alone; initial weights have none.

    So a resumed run draws what an uninterrupted run would have drawn. A run whose sources of chance
    share one key draws from it what each would draw from an equal key of its own.
    """

    def halves(key: jax.Array) -> jax.Array:
        return jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), epoch))

    if run.keys is None:
        order, step = halves(run.key)
        return Keys(run.key, order, step, step)
    order, dropout, augment = (halves(key) for key in run.keys[1:])
    return Keys(run.keys.weights, order[0], dropout[1], augment[1])


def train_step(
    state: TrainState,
    batch: Batch,
    h: Any,
    key: jax.Array,
    *,
    recipe: Recipe,
    steps: Any = None,
) -> tuple[TrainState, Sums]:
    """One optimizer step on the weighted mean loss of a batch, ``sum(w * loss) / sum(w)``.

    Args:
        state: the state before the step.
        batch: the rows.
        h: the run's hyperparameters, traced or not.
        key: typed PRNG key of this step alone.
        recipe: the static part.
        steps: optimizer steps of the whole training, where the recipe's optimizer asks for them.

    Returns:
        The state after the step, and the sums over the batch before it (with dropout on).

    Examples:
        A loop of one's own, on the rows that come with scikit-learn:

        >>> import digits_jax as dj
        >>> import jax
        >>> digits = dj.load_digits("bundled")
        >>> recipe, h = dj.Recipe(), dj.Hyperparameters(learning_rate=3e-3)
        >>> run = dj.take_run(dj.make_runs(dj.refit_split(digits.labels), h), 0)
        >>> state = dj.init_state(run, dj.Data(*digits.data), recipe=recipe)
        >>> step = jax.jit(dj.train_step, static_argnames="recipe")
        >>> batch = dj.Batch(digits.images[:128], digits.labels[:128], jax.numpy.ones(128))
        >>> for i in range(60):
        ...     state, sums = step(state, batch, h, jax.random.fold_in(run.key, i), recipe=recipe)
        >>> bool(sums.means()["accuracy"] > 0.5)
        True
    """
    check_batch(batch)
    keys = _step_keys(key, key)
    return _step(state, without_absent(batch), h, *keys, recipe=recipe, steps=steps)


def _step_keys(dropout: jax.Array, augment: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys of a step's dropout and augmentation, from a key of the step for each."""
    if dropout is augment:
        first, second = jax.random.split(dropout)
        return first, second
    return jax.random.split(dropout)[0], jax.random.split(augment)[1]


def _step(
    state: TrainState,
    batch: Batch,
    h: Any,
    dropout_key: jax.Array,
    augment_key: jax.Array,
    *,
    recipe: Recipe,
    steps: Any,
) -> tuple[TrainState, Sums]:
    """``train_step`` on a batch whose rows of weight 0 hold finite values."""
    network = as_network(recipe.network, h)
    mask = batch.weights > 0
    inputs, targets = batch.inputs, batch.targets
    if recipe.augment is not None:
        masked = with_mask(recipe.augment, mask)
        with recipe.in_precision():
            inputs, targets = recipe.augment(augment_key, inputs, targets, h, **masked)
    weight = jnp.sum(batch.weights)
    divisor = jnp.where(weight > 0, weight, 1)

    def mean_loss(params: Params) -> tuple[jax.Array, tuple[Any, Any]]:
        variables = Variables(params, state.collections)
        outputs, collections = recipe.applied(network)(
            variables, inputs, h, train=True, mask=mask, key=dropout_key
        )
        losses = recipe.loss(outputs, targets, h, **with_mask(recipe.loss, mask))
        losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
        total = jnp.sum(losses * batch.weights)
        return total / divisor, (outputs, collections)

    def value_fn(params: Params) -> jax.Array:
        return mean_loss(params)[0]

    optimizer = recipe.make_optimizer(h, steps)
    with recipe.in_precision():
        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, (outputs, collections)), grads = gradient(state.params)
        extra = extra_arguments(optimizer, loss, grads, value_fn)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **extra)
    params = optax.apply_updates(state.params, updates)
    totals = {"loss": (loss * divisor).astype(jnp.float32)}
    totals |= metric_totals(recipe, outputs, targets, batch.weights)
    stepped = TrainState(
        params,
        _of_dtypes(collections, state.collections),
        _of_dtypes(opt_state, state.opt_state),
        state.step + 1,
        state.epoch,
        state.average,
        state.initial_loss,
        state.best,
    )
    decay = _average_decay(recipe, h)
    if decay is not None:
        stepped = stepped._replace(average=_averaged(stepped, decay))
    return stepped, Sums(totals, weight)


def extra_arguments(
    optimizer: optax.GradientTransformation,
    value: jax.Array,
    grads: Any,
    value_fn: Callable[[Params], jax.Array],
) -> dict[str, Any]:
    """Those extra arguments that a transformation's update takes; see ``Recipe.optimizer``."""
    if not isinstance(optimizer, optax.GradientTransformationExtraArgs):
        return {}
    extra: dict[str, Any] = {
        "value": value,
        "grad": grads,
        "value_fn": value_fn,
        "grad_fn": lambda params, *_: jax.grad(value_fn)(params),
    }
    named = named_arguments(optimizer.update, **extra)
    parameters = inspect.signature(optimizer.update).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        # A chain passes on what its parts need; line searches refuse what they don't know.
        named |= {name: extra[name] for name in ("value", "grad", "value_fn")}
    return named


def _of_dtypes(new: Any, old: Any) -> Any:
    """The new tree in the old one's dtypes: float32 hyperparameters must not widen a state."""

    def one(new: Any, old: Any) -> Any:
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            return new
        return jnp.asarray(new, old.dtype)

    return jax.tree.map(one, new, old)


def _averaged(state: TrainState, decay: ArrayLike) -> dict[str, Any]:
    """The exponential moving average of params and collections, after ``state.step`` steps.

    ``average = d * average + (1 - d) * new`` with d = min(decay, step / (step + 9)), so that the
    initial weights are soon forgotten: (1 + t) / (10 + t) of TensorFlow's
    ``ExponentialMovingAverage`` with its ``num_updates`` t = step - 1.
    """
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(decay, step / (step + 9))
    new = {"params": state.params, "collections": state.collections}
    average: dict[str, Any] = jax.tree.map(
        lambda old, new: (new + decay * (old - new)).astype(old.dtype), state.average, new
    )
    return average


def train_epoch(
    state: TrainState, run: Run, data: Data, *, recipe: Recipe, all_steps: bool = False
) -> tuple[TrainState, Sums]:
    """One pass over the split's training rows, in an order drawn for this epoch.

    Batches with too few rows (see ``fewest_rows``) are no steps: they change nothing. Where splits
    of different sizes are stacked, some hold nothing but padding.

    Args:
        state: before it.
        run: the rows, the hyperparameters and the key.
        data: the data set.
        recipe: the static part.
        all_steps: it is known that every batch is a step, in all runs that are mapped over. Under
            ``vmap`` that spares a copy of the whole state a step: both branches of a condition run
            there, and one result is chosen.

    Returns:
        The state after the epoch, and the sums over its rows.
    """
    check_run(run)
    size = max(1, min(recipe.batch_size, run.split.train_rows.shape[0]))
    network = as_network(recipe.network, run.hyperparameters)
    fewest = fewest_rows(recipe, network, state.collections, size)
    keys = epoch_keys(run, state.epoch)
    rows, weights = _shuffle(keys.order, run.split, size)
    if recipe.remainder == "masked":
        needed = jnp.minimum(fewest, jnp.sum(weights > 0))
    else:
        needed = jnp.asarray(fewest)
    names = recipe.names

    def step(
        state: TrainState, batch: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[TrainState, Sums]:
        i, rows, weights = batch
        # Outside of the condition: under vmap both branches run, and would copy the data set.
        gathered = gather(data, rows, weights)

        def train(state: TrainState) -> tuple[TrainState, Sums]:
            # Padding repeats a real row; rows that the data's own weights leave out hold anything.
            batch = gathered if data.weights is None else without_absent(gathered)
            dropout = augment = jax.random.fold_in(keys.dropout, i)
            if keys.augment is not keys.dropout:
                augment = jax.random.fold_in(keys.augment, i)
            return _step(
                state,
                batch,
                run.hyperparameters,
                *_step_keys(dropout, augment),
                recipe=recipe,
                steps=run.steps,
            )

        def skip(state: TrainState) -> tuple[TrainState, Sums]:
            none = jnp.zeros((), jnp.float32)
            return state, Sums(dict.fromkeys(names, none), none)

        if all_steps:
            return train(state)
        if fewest == 1:
            is_step = jnp.any(weights > 0)
        else:
            count = jnp.sum(weights > 0)
            is_step = (count >= needed) & (count > 0)
        stepped: tuple[TrainState, Sums] = lax.cond(is_step, train, skip, state)
        return stepped

    first = state.epoch == 0
    state, sums = lax.scan(step, state, (jnp.arange(len(rows)), rows, weights))
    if not isinstance(state.initial_loss, tuple):
        loss = sums.totals["loss"][0] / jnp.where(sums.weight[0] > 0, sums.weight[0], 1)
        state = state._replace(initial_loss=jnp.where(first, loss, state.initial_loss))
    return state._replace(epoch=state.epoch + 1), jax.tree.map(jnp.sum, sums)


def _shuffle(key: jax.Array, split: Split, size: int) -> tuple[jax.Array, jax.Array]:
    """Training rows and weights in random order, padding last, as batches [steps, size]."""
    rows, weights = jnp.asarray(split.train_rows), jnp.asarray(split.train_weights)
    draw = jax.random.bits(key, rows.shape, jnp.uint32)
    # Sorting is stable and padding comes last in a split, so an equal draw keeps it last.
    order = jnp.argsort(jnp.where(weights > 0, draw, jnp.uint32(0xFFFFFFFF)))
    return in_batches(rows[order], weights[order], size)


def train_epochs(
    state: TrainState,
    run: Run,
    data: Data,
    *,
    recipe: Recipe,
    epochs: int,
    watch: Watch | None = None,
    all_steps: bool = False,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """``epochs`` more epochs from ``state.epoch`` on, as a scan over ``train_epoch``.

    Args:
        state: before them.
        run: the rows, the hyperparameters and the key.
        data: the data set.
        recipe: the static part.
        epochs: at least 1.
        watch: keeps the best epoch's weights, and stops training where none is better for some
            epochs. The same as for ``init_state``.
        all_steps: see ``train_epoch``.

    Returns:
        The state after them, and the history of these epochs alone: float32 [E] by name, "loss",
        the recipe's metrics, and the same with "validation_" before where the split has validation
        rows. Training values are weighted means over the epoch, while the weights move and with
        dropout on, as Keras reports them. NaN after a stop.
    """
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")

    def epoch(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        state, sums = train_epoch(state, run, data, recipe=recipe, all_steps=all_steps)
        history = sums.means()
        if run.split.validation_rows is not None:
            validation, _ = evaluate(state, run, data, recipe=recipe, part="validation")
            history |= {f"validation_{name}": mean for name, mean in validation.means().items()}
            if watch is not None:
                state = watched(state, history, validation.weight > 0, recipe)
        return state, history

    def stopped(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        nan = jnp.full((), jnp.nan, jnp.float32)
        return state, dict.fromkeys(history_names(recipe, run.split), nan)

    def one(state: TrainState, _: None) -> tuple[TrainState, dict[str, jax.Array]]:
        if watch is None or watch.patience is None:
            return epoch(state)
        stepped: tuple[TrainState, dict[str, jax.Array]] = lax.cond(
            has_stopped(state, watch), stopped, epoch, state
        )
        return stepped

    return lax.scan(one, state, length=epochs)


def history_names(recipe: Recipe, split: Split) -> tuple[str, ...]:
    """The names of the history: those of the recipe, and of validation where there are rows."""
    names = recipe.names
    if split.validation_rows is None:
        return names
    return (*names, *(f"validation_{name}" for name in names))
