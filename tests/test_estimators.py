"""``Classifier`` and ``Regressor`` as scikit-learn's estimators."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import digits_jax as dj

# scikit-learn's checks that fail, and why: what its check functions take by this name.
EXPECTED_FAILED_CHECKS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "the network computes in float32, so that a sum of weighted rows and one of repeated rows "
        "differ by 1e-6, where the check allows 1e-7; and with more rows than a batch, other rows "
        "meet in a batch. test_integer_weights_are_repetitions has the first"
    ),
}
# A check that trains takes seconds, to compile for its shapes; the others are slow tests. For the
# same reason the fits below have few shapes, and fewer than 20 epochs: one epoch a call.
FAST = {
    "check_classifiers_train",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_sparse_tag",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_get_params_invariance",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_regressors_train",
    "check_set_params",
    "check_valid_tag_types",
}


def _checks() -> Any:
    for estimator in (dj.Classifier(), dj.Regressor()):
        for given in estimator_checks_generator(
            estimator, expected_failed_checks=EXPECTED_FAILED_CHECKS, mark="xfail"
        ):
            values, marks = getattr(given, "values", given), getattr(given, "marks", ())
            check = values[1]
            while isinstance(check, functools.partial):
                check = check.func
            slow = () if check.__name__ in FAST else (pytest.mark.slow,)
            name = f"{type(estimator).__name__}-{check.__name__}"
            yield pytest.param(*values, marks=(*marks, *slow), id=name)


@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_passes_scikit_learns_checks(estimator: Any, check: Any) -> None:
    check(estimator)


class Net(nn.Module):
    """On inputs of any rank; its activation is a field, as users write it."""

    outputs: int
    activation: Any = nn.silu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(nn.Dense(8)(x.reshape(len(x), -1) / 16))
        return nn.Dense(self.outputs)(x)


@functools.cache
def _iris(names: bool = False) -> tuple[np.ndarray, np.ndarray]:
    data = load_iris()
    inputs = StandardScaler().fit_transform(data.data)
    return inputs, np.array(data.target_names)[data.target] if names else data.target


def _same(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "least"), [(load_iris, 0.9), (load_breast_cancer, 0.94), (load_digits, 0.92)]
)
def test_classifies_real_data(load: Any, least: float) -> None:
    model = make_pipeline(StandardScaler(), dj.Classifier())
    assert cross_val_score(model, *load(return_X_y=True), cv=3, error_score="raise").mean() > least


def test_regresses_real_data() -> None:
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), dj.Regressor(epochs=19)), transformer=StandardScaler()
    )
    score = cross_val_score(model, *load_diabetes(return_X_y=True), cv=3, error_score="raise")
    assert score.mean() > 0.35


def test_trains_as_cross_validate_does() -> None:
    """On whole batches there is no padding, and so no difference."""
    digits, recipe = load_digits(), dj.Recipe(network=Net(10))
    images, labels = digits.images[:256], digits.target[:256]
    model = dj.Classifier(recipe, epochs=2, members=2, random_state=3).fit(images, labels)
    runs = dj.make_runs(dj.refit_split(labels), members=2, seed=3)
    result = dj.cross_validate((images, labels), runs, recipe=recipe, epochs=2)
    _same(model.states_.params, result.states.params)
    _same(model.history_, dict(result.history))
    predict = jax.jit(functools.partial(dj.predict, recipe=recipe))
    outputs = [predict(result.state(i), images) for i in range(2)]
    mean = np.mean([jax.nn.softmax(each) for each in outputs], axis=0)
    np.testing.assert_allclose(model.predict_proba(images), mean, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"rows \(8, 7\), but was fitted on rows \(8, 8\)"):
        model.predict(images[:, :, :7])


@pytest.mark.parametrize("kind", [dj.Classifier, dj.Regressor])
def test_rows_of_weight_zero_are_absent(kind: Any) -> None:
    inputs, targets = _iris()
    weights = np.random.default_rng(0).integers(0, 3, len(targets)).astype(float)
    some = weights > 0
    spoilt = np.where(some[:, np.newaxis], inputs, 1e6)
    given = kind(epochs=5).fit(spoilt, targets, sample_weight=weights)
    alone = kind(epochs=5).fit(inputs[some], targets[some], sample_weight=weights[some])
    _same(given.states_.params, alone.states_.params)
    equal = kind(epochs=5).fit(inputs[some], targets[some], sample_weight=np.ones(some.sum()))
    assert (given.history_["loss"] != equal.history_["loss"]).all()


def test_integer_weights_are_repetitions() -> None:
    """While all rows fit in a batch; see ``EXPECTED_FAILED_CHECKS``."""
    inputs, targets = (each[::10] for each in _iris())
    weights = np.arange(len(targets)) % 4
    model = dj.Classifier(epochs=19).fit(inputs, targets, sample_weight=weights)
    weighted = model.predict_proba(inputs)
    model.fit(inputs.repeat(weights, axis=0), targets.repeat(weights), sample_weight=np.ones(21))
    np.testing.assert_allclose(model.predict_proba(inputs), weighted, rtol=1e-4, atol=1e-5)


def test_stops_early_and_keeps_the_best_epoch() -> None:
    inputs, labels = _iris()
    model = dj.Classifier(
        hyperparameters={"learning_rate": 0.1}, validation_fraction=0.2, patience=5, epochs=400
    ).fit(inputs, labels)
    assert model.n_iter_ < 400
    assert model.n_iter_ == model.best_epochs_[0] + 5
    validation = model.history_["validation_loss"][0]
    assert np.nanargmin(validation) + 1 == model.best_epochs_[0]
    assert np.isnan(validation[model.n_iter_ :]).all()
    with pytest.raises(ValueError, match="patience needs validation rows"):
        dj.Classifier(patience=5).fit(inputs, labels)


@pytest.mark.parametrize("labels", [["b", "a", "ü"], [-7, 40, 3], [2.0, 1, 0]])
def test_takes_any_labels(labels: list[Any]) -> None:
    inputs, codes = _iris()
    targets = np.array(labels)[codes]
    model = dj.Classifier(epochs=19, hyperparameters={"learning_rate": 0.01}).fit(inputs, targets)
    assert model.classes_.tolist() == sorted(set(labels))
    assert model.predict(inputs).dtype == targets.dtype
    assert model.score(inputs, targets) > 0.8
    assert model.predict_proba(inputs).shape == (150, len(model.classes_))


def test_a_grid_search_sets_hyperparameters_by_name() -> None:
    search = GridSearchCV(
        make_pipeline(StandardScaler(), dj.Classifier(epochs=19)),
        {"classifier__hyperparameters__learning_rate": [0.0, 0.02]},
        cv=3,
        error_score="raise",
    ).fit(*_iris(names=True))
    assert search.best_params_ == {"classifier__hyperparameters__learning_rate": 0.02}
    assert search.best_score_ > 0.9 > search.cv_results_["mean_test_score"][0] + 0.2
    best = search.best_estimator_[-1]
    assert best.hyperparameters_.learning_rate == np.float32(0.02)
    assert best.get_params()["hyperparameters__learning_rate"] == 0.02


class Rates(NamedTuple):
    """Hyperparameters of one's own."""

    layers: dict[str, float]
    decay: float


def test_nested_hyperparameters_are_replaced_not_changed() -> None:
    h = Rates({"first": 0.1, "second": 0.2}, 0.5)
    model = dj.Classifier(dj.Recipe(), hyperparameters=h)
    assert model.get_params()["hyperparameters__layers__second"] == 0.2
    model.set_params(hyperparameters__layers__second=0.3, hyperparameters__decay=0.4, epochs=3)
    assert model.hyperparameters == Rates({"first": 0.1, "second": 0.3}, 0.4)
    assert (model.epochs, h.layers["second"]) == (3, 0.2)
    with pytest.raises(ValueError, match="no hyperparameter 'third'; there are first, second"):
        model.set_params(hyperparameters__layers__third=1)
    with pytest.raises(ValueError, match="Invalid parameter 'rate'"):
        model.set_params(rate=1)


def test_an_array_is_one_hyperparameter() -> None:
    def loss(outputs: jax.Array, targets: jax.Array, h: Any) -> jax.Array:
        weights = jnp.ones(3) if h is None else jnp.asarray(h["weights"])
        return dj.cross_entropy(outputs, targets) * weights[targets]

    recipe = dj.Recipe(network=nn.Dense(3), loss=loss, optimizer=lambda h: optax.sgd(0.1))
    shares = []
    for weights in ([1.0, 1.0, 1.0], np.array([1.0, 1.0, 20.0])):
        model = dj.Classifier(recipe, hyperparameters={"weights": weights}, members=2, epochs=9)
        shares.append((model.fit(*_iris()).predict(_iris()[0]) == 2).mean())
    assert shares[1] > shares[0] + 0.1


def test_a_recipe_may_be_a_function_and_have_too_many_logits() -> None:
    inputs, labels = _iris()

    def recipe(inputs: Any, targets: Any) -> dj.Recipe:
        assert inputs.shape == (150, 4) and inputs.dtype == np.float32
        return dj.Recipe(network=nn.Dense(int(targets.max()) + 3))

    model = dj.Classifier(recipe, epochs=2).fit(inputs, labels)
    assert model.recipe_.network.features == 5
    probabilities = model.predict_proba(inputs)
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert set(model.predict(inputs)) <= {0, 1, 2}


def test_several_targets() -> None:
    inputs, _ = _iris()
    model = dj.Regressor(epochs=19, hyperparameters={"learning_rate": 0.01})
    model.fit(inputs[:, :2], inputs[:, 2:])
    assert model.predict(inputs[:7, :2]).shape == (7, 2)
    assert model.score(inputs[:, :2], inputs[:, 2:]) > 0.5


def test_squared_error_is_the_mean_of_a_rows_numbers() -> None:
    outputs, targets = np.arange(12.0).reshape(2, 3, 2), np.ones((2, 3, 2), int)
    expected = ((outputs - targets) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(dj.squared_error(jnp.asarray(outputs), targets), expected)
    np.testing.assert_allclose(dj.squared_error(jnp.array([3.0, 1.0]), [1, 1]), [4.0, 0.0])
    with pytest.raises(ValueError, match=r"of one shape, not \[2, 1\] and \[2\]"):
        dj.squared_error(jnp.ones((2, 1)), [1, 1])


def test_data_frames_keep_their_names() -> None:
    pandas = pytest.importorskip("pandas")
    inputs, labels = _iris(names=True)
    frame = pandas.DataFrame(inputs, columns=list("abcd"))
    model = dj.Classifier(epochs=5).fit(frame, pandas.Series(labels))
    assert model.feature_names_in_.tolist() == list("abcd")
    _same(model.states_.params, dj.Classifier(epochs=5).fit(inputs, labels).states_.params)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("abdc")])


def test_a_fitted_model_is_pickled_and_predicts_elsewhere(tmp_path: Path) -> None:
    model = dj.Classifier(epochs=2).fit(*_iris(names=True))
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(model.states_))
    (tmp_path / "model").write_bytes(pickle.dumps((model, _iris()[0])))
    code = """
import pickle, sys
model, inputs = pickle.load(open(sys.argv[1], "rb"))
print(model.predict(inputs).tolist())
"""
    command = [sys.executable, "-c", code, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(model.predict(_iris()[0]).tolist())


@pytest.mark.parametrize("activation", [nn.relu, nn.sigmoid, jnp.tanh, nn.gelu])
def test_a_recipe_is_pickled_with_the_functions_of_jax(activation: Any) -> None:
    recipe = dj.Recipe(network=Net(10, activation))
    assert pickle.loads(pickle.dumps(dj.Classifier(recipe))).recipe == recipe
    assert pickle.loads(pickle.dumps(dj.Recipe())) == dj.Recipe()
    cloudpickle = pytest.importorskip("cloudpickle")
    assert pickle.loads(cloudpickle.dumps(recipe)) == recipe
    mine = jax.jit(lambda x: x + 1)  # it has no name to be found by
    assert pickle.loads(cloudpickle.dumps(mine))(1) == 2


def test_a_lambda_needs_cloudpickle() -> None:
    model = dj.Classifier(dj.Recipe(network=Net(3), optimizer=lambda h: optax.sgd(0.1)))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(model)
    cloudpickle = pytest.importorskip("cloudpickle")
    inputs, labels = _iris()
    model.set_params(epochs=2).fit(inputs, labels)
    again = pickle.loads(cloudpickle.dumps(model))
    _same(again.predict_proba(inputs), model.predict_proba(inputs))


def test_a_clone_has_the_same_recipe() -> None:
    model = dj.Classifier(dj.Recipe(network=Net(3)), devices="cpu")
    assert clone(model).recipe is model.recipe
    on_cpu = clone(model).set_params(recipe=None, epochs=2).fit(*_iris())
    _same(on_cpu.states_.params, dj.Classifier(epochs=2).fit(*_iris()).states_.params)


def test_fits_and_predictions_of_about_one_size_compile_once() -> None:
    events = []

    def note(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(duration)

    inputs, labels = _iris()
    recipe = dj.Recipe(network=nn.Dense(3), optimizer=lambda h: optax.sgd(0.1), batch_size=64)
    model = dj.Classifier(recipe, epochs=3).fit(inputs, labels)
    model.predict(inputs)
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for rows in (149, 140, 130):
            again = clone(model).set_params(random_state=rows).fit(inputs[:rows], labels[:rows])
            again.predict(inputs[: rows - 1])
        assert not events
        again.fit(inputs[:, :2], labels)
        assert events
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_predicts_any_number_of_rows() -> None:
    inputs, labels = _iris()
    model = dj.Classifier(epochs=2).fit(inputs, labels)
    state = dj.take_run(model.states_, 0)
    many = np.tile(inputs, (9, 1))
    logits = dj.predict(state, many, model.hyperparameters_, recipe=model.recipe_)
    expected = jax.nn.softmax(logits)
    for rows in (1, 31, 33, 512, 513, 1350):
        given = model.predict_proba(many[:rows])
        np.testing.assert_allclose(given, expected[:rows], rtol=1e-5, atol=1e-6)


def test_random_states() -> None:
    inputs, labels = _iris()

    def loss(random_state: Any) -> np.ndarray:
        return (
            dj.Classifier(epochs=2, random_state=random_state).fit(inputs, labels).history_["loss"]
        )

    _same(loss(5), loss(np.int64(5)))
    _same(loss(np.random.RandomState(1)), loss(np.random.RandomState(1)))
    assert (loss(5) != loss(6)).all()
    assert (loss(None) != loss(None)).all()


def test_diverged_training_warns() -> None:
    inputs, _ = _iris()
    with pytest.warns(ConvergenceWarning, match="diverged in epoch 1: scale the inputs"):
        dj.Regressor(epochs=10, hyperparameters={"learning_rate": 1e6}).fit(inputs, inputs[:, 0])


def test_wrong_calls_say_so() -> None:
    inputs, labels = _iris()
    with pytest.raises(NotFittedError):
        dj.Classifier().predict(inputs)
    with pytest.raises(ValueError, match="only one class"):
        dj.Classifier().fit(inputs, np.zeros(150))
    with pytest.raises(TypeError, match="recipe must be a Recipe, a function"):
        dj.Classifier("strong").fit(inputs, labels)
    with pytest.raises(ValueError, match="the network gives 2 logits"):
        dj.Classifier(dj.Recipe(network=nn.Dense(2))).fit(inputs, labels)
    with pytest.raises(ValueError, match="sample_weight must be"):
        dj.Classifier().fit(inputs, labels, sample_weight=np.ones(149))
    with pytest.raises(ValueError, match="no hyperparameter 'rate'; there are learning_rate"):
        dj.Classifier(hyperparameters={"rate": 0.1}).fit(inputs, labels)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        dj.Classifier(epochs=0).fit(inputs, labels)
    with pytest.raises(ValueError, match="one shape"):
        dj.Regressor(dj.Recipe(network=nn.Dense(1), loss=dj.squared_error)).fit(inputs, labels)
    with pytest.raises(ValueError, match="within float32"):
        dj.Regressor().fit(inputs, labels * 1e300)
