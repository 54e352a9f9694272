"""scikit-learn's methods of ``methods.py``: one split after another, a process on each core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common import console
from digits_jax.runs.identity import digest_of
from methods import Predictions, title

if TYPE_CHECKING:
    import digits_jax as dj
    from common.tasks import Task

GAMMAS = (0.06, 0.12, 0.24, 0.48)  # of the SVM's kernel, that the digits choose among


def flat(task: Task) -> npt.NDArray[np.float64]:
    """Inputs [N, features]; images from 0 to 1."""
    inputs = np.asarray(task.data[0], np.float64).reshape(task.rows, -1)
    if task.images is None:
        return inputs
    return inputs / (16 if task.dataset is not None else max(float(inputs.max()), 1e-9))


def estimator(name: str, seed: int, *, gammas: tuple[Any, ...] = GAMMAS) -> Any:
    """scikit-learn's model of that name, for inputs of 0 to 1; its defaults but for what is said.

    The forest has 200 trees. The SVM's C and gamma are those of the best accuracy in three
    stratified folds of the rows that it is given, then it is fitted to all of these.
    """
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    models = {
        "knn1": KNeighborsClassifier(1),
        "knn3": KNeighborsClassifier(3),
        "logistic": LogisticRegression(max_iter=1000),
        "forest": RandomForestClassifier(200, random_state=seed),
        "mlp": MLPClassifier(max_iter=1000, random_state=seed),  # it stops by itself
        "svm": GridSearchCV(SVC(), {"C": [10], "gamma": list(gammas)}, cv=inner),
    }
    return models[name]


def predict(name: str, task: Task, splits: dj.Split, seed: int) -> Predictions:
    """A method's predictions of the test rows of all splits."""
    started = time.perf_counter()
    inputs = flat(task)
    gammas = GAMMAS if task.dataset is not None else ("scale", 0.3 / inputs.shape[1])
    rows = np.where(splits.test_weights > 0, splits.test_rows, -1).astype(np.int32)
    predicted, chosen = np.full_like(rows, -1), []
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
        )
        for i in range(len(rows))
    )
    with console.results.status(title(name)) as status:
        answers = joblib.Parallel(n_jobs=-1, return_as="generator")(jobs)
        for i, (classes, tuned) in enumerate(answers):
            predicted[i, rows[i] >= 0] = classes
            chosen.append(tuned)
            status.update(f"{title(name)}: {i + 1} of {len(rows)} splits")
    logits = np.zeros((*rows.shape, 0), np.float32)
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
) -> tuple[npt.NDArray[Any], dict[str, Any]]:
    """One split: the classes [S] predicted for the test rows, and what was tuned.

    ``scaled``: inputs get the mean 0 and sd 1 of the training rows.
    """
    model = estimator(name, seed, gammas=gammas)
    whole = make_pipeline(StandardScaler(), model) if scaled else model
    whole.fit(inputs[train], labels[train])
    return whole.predict(inputs[test]), getattr(model, "best_params_", {})


def identity(name: str, task: Task, splits: dj.Split, seed: int) -> dict[str, Any]:
    """What predictions must share to be reused."""
    return {
        "method": repr(estimator(name, seed)),
        "scikit-learn": sklearn.__version__,
        "seed": seed,
        "data.sha256": task.provenance.sha256,
        "splits.sha256": digest_of(splits),
    }
