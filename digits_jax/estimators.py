"""scikit-learn's interface over a recipe: ``Classifier`` and ``Regressor``.

They fit in pipelines, ``cross_val_score`` and ``GridSearchCV``. To train many folds or settings at
once, ``cross_validate`` is faster: one program for all of them.

Shapes: N rows, M members, K classes, E epochs.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
import numpy.typing as npt
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from digits_jax.fitting import fit, outputs_of
from digits_jax.optimizers import Hyperparameters
from digits_jax.recipe import Recipe
from digits_jax.recipes.tabular import for_classes, for_numbers
from digits_jax.runs.axis import take_run, with_leaves
from digits_jax.runs.checks import check_data
from digits_jax.runs.identity import named_leaves

_NESTED = "hyperparameters__"


class _Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no annotations
    """What ``Classifier`` and ``Regressor`` share: parameters, training, outputs."""

    def __init__(
        self,
        recipe: Recipe | Callable[[Any, Any], Recipe] | None = None,
        *,
        hyperparameters: Any = None,
        epochs: int = 200,
        members: int = 1,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
        devices: str | Sequence[jax.Device] | None = None,
    ) -> None:
        self.recipe = recipe
        self.hyperparameters = hyperparameters
        self.epochs = epochs
        self.members = members
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.random_state = random_state
        self.devices = devices

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name.

        Args:
            deep: whether each hyperparameter counts too, as ``hyperparameters__learning_rate``.
        """
        params: dict[str, Any] = super().get_params(deep=deep)
        if deep:
            leaves = named_leaves(self._hyperparameters())
            params |= {_NESTED + name.replace(".", "__"): leaf for name, leaf in leaves.items()}
        return params

    def set_params(self, **params: Any) -> Self:
        """Sets parameters; ``hyperparameters__learning_rate=0.01`` sets a hyperparameter.

        Args:
            **params: values by name. The hyperparameters are replaced, never changed in place.

        Raises:
            ValueError: there is no parameter or hyperparameter of a name.
        """
        names = [name for name in params if name.startswith(_NESTED)]
        new = {name.removeprefix(_NESTED).replace("__", "."): params.pop(name) for name in names}
        super().set_params(**params)
        if new:
            self.hyperparameters = with_leaves(self._hyperparameters(), new)
        return self

    def _hyperparameters(self) -> Any:
        given = {} if self.hyperparameters is None else self.hyperparameters
        if self.hyperparameters is None or (self.recipe is None and isinstance(given, Mapping)):
            return with_leaves(Hyperparameters(), given)
        return given

    def _validated(self, X: Any, y: Any, sample_weight: Any, **options: Any) -> tuple[Any, ...]:
        """Host arrays X [N, ...], y [N, ...] and weights [N] or None, without rows of weight 0."""
        X, y = validate_data(self, X, y, allow_nd=True, **options)
        self.input_shape_ = X.shape[1:]
        if sample_weight is None:
            return X, y, None
        weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64)
        if weights.shape != (len(X),):
            raise ValueError(f"sample_weight must be [{len(X)}], not {list(weights.shape)}")
        if not weights.any():
            raise ValueError("sample_weight is zero for all rows")
        present = weights != 0
        return X[present], y[present], weights[present]

    def _train(self, inputs: Any, targets: Any, weights: Any, default: Recipe) -> Self:
        """Trains the members, and sets what a fitted estimator has."""
        data = check_data((inputs, targets) if weights is None else (inputs, targets, weights))
        recipe = default if self.recipe is None else self.recipe
        if not isinstance(recipe, Recipe) and callable(recipe):
            recipe = recipe(data.inputs, data.targets)
        if not isinstance(recipe, Recipe):
            raise TypeError(
                "recipe must be a Recipe, a function (inputs, targets) that gives one, or None, "
                f"not {recipe!r}"
            )
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        result = fit(
            data,
            self._hyperparameters(),
            recipe=recipe,
            epochs=self.epochs,
            members=self.members,
            seed=int(seed),
            validation_fraction=self.validation_fraction,
            stratify=data.targets if isinstance(self, ClassifierMixin) else None,
            patience=self.patience,
            devices=self._devices(),
        )
        if result.diverged.any():
            warnings.warn(
                f"training diverged in epoch {result.diverged.max()}: scale the inputs (and a "
                "regressor's targets), or lower hyperparameters__learning_rate",
                ConvergenceWarning,
                stacklevel=3,
            )
        states = result.states._replace(best=())
        if recipe.eval_params is None:
            states = states._replace(opt_state=())  # nothing that predicts needs it
        self.recipe_ = recipe
        self.hyperparameters_ = take_run(result.runs.hyperparameters, 0)
        self.states_ = states
        self.history_ = dict(result.history)
        self.best_epochs_ = result.best_epochs
        self.n_iter_ = int(result.epochs.max())
        return self

    def _outputs(self, X: Any) -> npt.NDArray[Any]:
        """The network's outputs [N, ...], those of the members combined."""
        check_is_fitted(self, "states_")
        X = validate_data(self, X, reset=False, allow_nd=True)
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows {X.shape[1:]}, but was fitted on rows {self.input_shape_}"
            )
        inputs = check_data((X, np.zeros(len(X), np.int32))).inputs
        h, device = self.hyperparameters_, self._devices()[0]
        return outputs_of(self.states_, inputs, h, recipe=self.recipe_, device=device)

    def _devices(self) -> Sequence[jax.Device]:
        if self.devices is None or isinstance(self.devices, str):
            return jax.devices(self.devices)
        return self.devices


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]  # as above
    """A scikit-learn classifier that trains a recipe's network.

    Labels are anything that scikit-learn takes; the network sees integers 0 to K - 1, and its
    outputs are taken as logits [B, K]. Logits beyond K are left out, so that a network for ten
    digits can be trained on a fold that has eight. Inputs go to the network as they are: put
    ``StandardScaler`` before it in a pipeline where they are not about 1 in size.

    Args:
        recipe: how the network trains; a function ``(inputs, targets)`` that gives a recipe, e.g.
            for the right number of outputs; or None: one hidden layer of 64 units on the flattened
            inputs, Adam, and batches of 32.
        hyperparameters: of the recipe, any pytree of numbers; an array or a list is one value. With
            the default recipe a dict like ``{"learning_rate": 0.01}`` will do. None:
            ``Hyperparameters()``. Searches set ``hyperparameters__learning_rate``.
        epochs: passes over the training rows, at least 1.
        members: networks that are trained, with different keys, and vote; see ``Recipe.combine``.
        validation_fraction: fraction of the rows, in the classes' proportions, that don't train but
            choose the best epoch by the recipe's ``monitor``, whose weights are kept. 0: the last
            epoch's are.
        patience: epochs without a better one after which a member stops; None: none does.
        random_state: an integer, as ``make_runs`` takes it for a seed; or scikit-learn's others:
            a ``RandomState``, or None for NumPy's global one.
        devices: the name of a platform, such as "cpu"; or a list of devices, which scikit-learn
            can't clone. None: ``jax.devices()``.

    Attributes:
        classes_: the labels, sorted, [K].
        n_features_in_: the length of the inputs' second axis.
        feature_names_in_: strings [n_features_in_], if the inputs were a data frame of such names.
        input_shape_: the shape of a row of the inputs.
        recipe_: the recipe that was trained.
        hyperparameters_: its hyperparameters.
        states_: what was trained, a ``TrainState`` of NumPy arrays [M, ...]; it has no state of the
            optimizer unless ``Recipe.eval_params`` needs one.
        history_: float32 [M, E] by name, as in ``CrossValidation``.
        best_epochs_: int32 [M], the best epoch; the last one without validation rows.
        n_iter_: epochs that were trained, the most of any member.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> inputs, labels = load_iris(return_X_y=True)
        >>> model = make_pipeline(StandardScaler(), Classifier()).fit(inputs, labels)
        >>> bool(model.score(inputs, labels) > 0.9)
        True
        >>> model = model.set_params(classifier__hyperparameters__learning_rate=0.01)
        >>> model[-1].hyperparameters.learning_rate
        0.01
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains on all rows but those that validate.

        Args:
            X: numbers [N, ...], at least 2-D: an array, a data frame.
            y: labels [N].
            sample_weight: numbers [N], at least 0. A row of weight 0 is as absent.

        Returns:
            The estimator.

        Raises:
            TypeError: the recipe is none.
            ValueError: the data are not as said, there is only one class, or a parameter is out of
                its range.
        """
        X, y, weights = self._validated(X, y, sample_weight)
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has only one class, {classes[0]!r}; a classifier needs two")
        self._train(X, codes, weights, for_classes(len(classes)))
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """The probabilities of the classes, float64 [N, K], in the order of ``classes_``.

        Args:
            X: inputs [N, ...], of the shape that ``fit`` had.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the inputs are not as said.
        """
        logits = self._outputs(X)
        if logits.ndim != 2 or logits.shape[1] < len(self.classes_):
            raise ValueError(
                f"the network must give logits [B, {len(self.classes_)}], not "
                f"{['B', *logits.shape[1:]]}"
            )
        logits = logits[:, : len(self.classes_)].astype(np.float64)
        probabilities: npt.NDArray[np.float64] = scipy.special.softmax(logits, axis=1)
        return probabilities

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The most probable label of each row, [N].

        Args:
            X: inputs [N, ...], of the shape that ``fit`` had.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the inputs are not as said.
        """
        chosen = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[chosen]
        return labels


class Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]  # as above
    """A scikit-learn regressor that trains a recipe's network.

    Inputs and targets go to the network as they are: put ``StandardScaler`` before it in a
    pipeline, and ``TransformedTargetRegressor`` around it, where they are not about 1 in size.

    Args:
        recipe: how the network trains; a function ``(inputs, targets)`` that gives a recipe; or
            None: one hidden layer of 64 units on the flattened inputs, ``squared_error``, Adam, and
            batches of 32. Its outputs must have the shape of the targets.
        hyperparameters: see ``Classifier``, as for the others.
        epochs: passes over the training rows, at least 1.
        members: networks that are trained, with different keys, and vote.
        validation_fraction: fraction of the rows, drawn at random, that choose the best epoch.
        patience: epochs without a better one after which a member stops; None: none does.
        random_state: an integer, a ``RandomState``, or None.
        devices: the name of a platform, or a list of devices.

    Attributes:
        n_features_in_: see ``Classifier``, as for ``feature_names_in_``, ``input_shape_``,
            ``recipe_``, ``hyperparameters_``, ``states_``, ``history_``, ``best_epochs_`` and
            ``n_iter_``.

    Examples:
        >>> import numpy as np
        >>> inputs = np.linspace(-1, 1, 64)[:, np.newaxis]
        >>> model = Regressor().fit(inputs, np.sin(3 * inputs[:, 0]))
        >>> bool(model.score(inputs, np.sin(3 * inputs[:, 0])) > 0.9)
        True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains on all rows but those that validate.

        Args:
            X: numbers [N, ...], at least 2-D: an array, a data frame.
            y: numbers [N] or [N, T], T targets; the network sees floats.
            sample_weight: numbers [N], at least 0. A row of weight 0 is as absent.

        Returns:
            The estimator.

        Raises:
            TypeError: the recipe is none.
            ValueError: the data are not as said, or a parameter is out of its range.
        """
        X, y, weights = self._validated(X, y, sample_weight, multi_output=True, y_numeric=True)
        default = for_numbers(y.shape[1] if y.ndim == 2 else None)
        return self._train(X, y.astype(np.float64), weights, default)

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """The network's outputs, float64 of the targets' shape: [N] or [N, T].

        Args:
            X: inputs [N, ...], of the shape that ``fit`` had.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the inputs are not as said.
        """
        outputs: npt.NDArray[np.float64] = self._outputs(X).astype(np.float64)
        return outputs
