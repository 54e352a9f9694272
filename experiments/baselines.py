"""scikit-learn's methods of ``methods.py``: one split after another, a process on each core."""

from __future__ import annotations

import logging
import time
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

import jax
import joblib
import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import digits_jax as dj
from common import options, progress
from common.scores import counted
from digits_jax.calibration import fit_temperature
from digits_jax.runs.identity import digest_of
from methods import Predictions, title

if TYPE_CHECKING:
    from common.tasks import Task

GAMMAS = (0.06, 0.12, 0.24, 0.48)  # of the SVM's kernel, that the digits choose among
COPIES = 4  # of each training row, jittered as the strong recipe does it
LEAST = 2.0**-52  # of a probability, as scikit-learn's log_loss has it


def flat(task: Task) -> npt.NDArray[np.float64]:
    """Inputs [N, features]; images from 0 to 1."""
    inputs = np.asarray(task.data[0], np.float64).reshape(task.rows, -1)
    if task.images is None:
        return inputs
    return inputs / (16 if task.dataset is not None else max(float(inputs.max()), 1e-9))


def estimator(name: str, seed: int, *, gammas: tuple[Any, ...] = GAMMAS) -> Any:
    """scikit-learn's model of that name, for inputs of 0 to 1; its defaults but for what is said.

    The forest has 200 trees. The SVM's C and gamma are those of the best accuracy in three
    stratified folds of the rows that it is given, then it is fitted to all of these. RealMLP
    (Holzmüller et al. 2024) is pytabkit's, with its tuned defaults: five networks, each of which
    leaves a fifth of the rows out to choose its epoch by, and whose probabilities are averaged.
    """
    if name == "realmlp":
        return _real_mlp(seed)
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    svm = GridSearchCV(SVC(), {"C": [10], "gamma": list(gammas)}, cv=inner)
    models = {
        "knn1": KNeighborsClassifier(1),
        "knn3": KNeighborsClassifier(3),
        "logistic": LogisticRegression(max_iter=1000),
        "forest": RandomForestClassifier(200, random_state=seed),
        "mlp": MLPClassifier(max_iter=1000, random_state=seed),  # it stops by itself
        "svm": svm,
        "svm_jitter": svm,
    }
    return models[name]


def _real_mlp(seed: int) -> Any:
    try:
        from lightning_fabric.utilities import disable_possible_user_warnings
        from pytabkit import RealMLP_TD_Classifier
    except ImportError as error:
        raise options.UsageError(
            f"realmlp needs pytabkit, which does not load ({error}): pip install pytabkit"
        ) from error
    disable_possible_user_warnings()  # of how many processes might be faster
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # what PyTorch says of its code
    for noisy in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # A process a core does the splits, so that each network has one thread.
    return RealMLP_TD_Classifier(device="cpu", n_cv=5, n_threads=1, random_state=seed)


def predict(name: str, task: Task, splits: dj.Split, seed: int) -> Predictions:
    """A method's predictions of the test rows of all splits."""
    started = time.perf_counter()
    inputs = flat(task)
    gammas = GAMMAS if task.dataset is not None else ("scale", 0.3 / inputs.shape[1])
    copies = jittered(task, seed) if name == "svm_jitter" else None
    rows = np.where(splits.test_weights > 0, splits.test_rows, -1).astype(np.int32)
    predicted, chosen = np.full_like(rows, -1), []
    assert task.class_names is not None
    logits = np.zeros((*rows.shape, len(task.class_names)), np.float32)
    jobs = (
        joblib.delayed(fit)(
            name,
            inputs,
            task.targets,
            splits.train_rows[i][splits.train_weights[i] > 0],
            rows[i][rows[i] >= 0],
            int(np.random.SeedSequence((seed, i)).generate_state(1)[0]),
            gammas=gammas,
            scaled=task.images is None,
            copies=copies,
        )
        for i in range(len(rows))
    )
    with progress.waiting(f"{title(name)}: {counted(len(rows), 'split')}") as now:
        answers = joblib.Parallel(n_jobs=-1, return_as="generator")(jobs)
        for i, (classes, tuned, (known, values)) in enumerate(answers):
            predicted[i, rows[i] >= 0] = classes
            logits[i] = np.log(LEAST)  # of a class that the training rows lack
            logits[i][np.ix_(rows[i] >= 0, known)] = values
            chosen.append(tuned)
            now(f"{title(name)}: {i + 1} of {counted(len(rows), 'split')}")
    return Predictions(rows, predicted, logits, time.perf_counter() - started, chosen)


def fit(
    name: str,
    inputs: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    train: Any,
    test: Any,
    seed: int,
    *,
    gammas: tuple[Any, ...] = GAMMAS,
    scaled: bool = False,
    copies: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], dict[str, Any], tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """One split: the classes [S] predicted for the test rows, and what was tuned.

    Last the K' classes that the model knows, and the log-probabilities [S, K'] that it gives them.

    Args:
        name: of the method.
        inputs: [N, features].
        labels: [N].
        train: rows to fit.
        test: rows to predict.
        seed: of the method's draws.
        gammas: to choose the SVM's among.
        scaled: inputs get the mean 0 and sd 1 of the training rows.
        copies: changed rows [copies, N, features]; those of the training rows are fitted, too, once
            all is tuned.
    """
    model = estimator(name, seed, gammas=gammas)
    whole = make_pipeline(StandardScaler(), model) if scaled else model
    whole.fit(inputs[train], labels[train])
    if copies is not None:
        more = np.concatenate([inputs[train], *copies[:, train]])
        model.best_estimator_.fit(more, np.tile(labels[train], 1 + len(copies)))
    if hasattr(whole, "predict_proba"):
        logits = np.log(np.maximum(whole.predict_proba(inputs[test]), LEAST))
    else:
        best = model.best_estimator_
        again = make_pipeline(StandardScaler(), best) if scaled else best
        scores = whole.decision_function(inputs[test])
        logits = _logits(again, inputs[train], labels[train], scores, model.classes_)
    chosen = getattr(model, "best_params_", {})
    return whole.predict(inputs[test]), chosen, (model.classes_, logits)


def _logits(
    model: Any,
    inputs: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    scores: npt.NDArray[Any],
    classes: npt.NDArray[Any],
) -> npt.NDArray[np.float64]:
    """Log-probabilities [S, K'], up to a constant, of an SVM's scores of test rows.

    An SVM has none of its own: the scores are divided by the temperature of scores that it gives
    for each third of the training rows when fitted to the others.
    """
    held_out = cross_val_predict(model, inputs, labels, cv=3, method="decision_function")
    if held_out.ndim == 1:  # of two classes, one score
        held_out, scores = (np.stack([-each, each], axis=1) / 2 for each in (held_out, scores))
    logits: npt.NDArray[np.float64] = scores / fit_temperature(
        held_out, np.searchsorted(classes, labels)
    )
    return logits


def jittered(task: Task, seed: int) -> npt.NDArray[np.float64]:
    """Copies of all rows [COPIES, N, features], changed as the strong recipe changes them."""
    options.require(task.dataset is not None, "svm_jitter knows how digits may be changed alone")
    jitter = dj.recipe_by_name("strong").recipe.augment
    assert isinstance(jitter, dj.Jitter)
    changed = jax.jit(jitter.changed)
    keys = jax.random.split(jax.random.key(seed), COPIES)
    copies = np.stack([np.asarray(changed(key, task.data[0])) for key in keys])
    return copies.reshape(COPIES, task.rows, -1).astype(np.float64) / 16


def identity(name: str, task: Task, splits: dj.Split, seed: int) -> dict[str, Any]:
    """What predictions must share to be reused."""
    return {
        "method": repr(estimator(name, seed)),
        "scikit-learn": sklearn.__version__,
        **({"pytabkit": metadata.version("pytabkit")} if name == "realmlp" else {}),
        "seed": seed,
        "data.sha256": task.provenance.sha256,
        "splits.sha256": digest_of(splits),
    }
