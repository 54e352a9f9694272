"""The methods that ``compare.py`` and ``writers.py`` set beside each other, on equal splits.

The networks train all splits at once, on the runs axis; scikit-learn's methods take one split after
another, in a process on each core. What a method predicts is written to the output folder as soon
as it is whole, and read from there on ``--resume``.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import console, options, tasks, training
from common.output import Output

if TYPE_CHECKING:
    import numpy as np

    from common.tasks import Task
    from digits_jax import Split

TITLES: dict[str, str] = {
    "strong": "CNN, strong",
    "notebook": "CNN, notebook",
    "svm": "SVM, RBF kernel",
    "svm_jitter": "SVM, RBF kernel, jittered rows",
    "knn1": "1 nearest neighbour",
    "knn3": "3 nearest neighbours",
    "mlp": "MLP, one layer of 100",
    "forest": "random forest",
    "logistic": "logistic regression",
}
SLOW = ("svm_jitter",)  # only where they are asked for
COPIES = 4  # of each training row, jittered as the strong recipe does it
GAMMAS = (0.06, 0.12, 0.24, 0.48)  # of the SVM's kernel, that the digits choose among
LEAST = 2.0**-52  # of a probability, as scikit-learn's log_loss has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(options.ResumableOut, options.Data):
    """The options of the command line that both scripts have."""

    methods: tuple[str, ...] = ()
    """What to compare: strong, notebook, svm, svm_jitter (which has the strong recipe's jitter of
    its training rows, and takes long), knn1, knn3, mlp, forest, logistic, and recipes of yours,
    FILE.py:FUNCTION (see cross_validate.py). A recipe's name with a number, strong*5, is so many
    networks on each split that vote. Default: all of the first but svm_jitter, of the digits; all
    but strong and notebook, of other data."""
    seed: int = 0
    """Of the splits and of every method's draws."""
    epochs: int | None = None
    """Passes over the training rows of the networks, for a quick trial. Default: the recipes'."""

    def check(self) -> None:
        """Raises UsageError."""
        options.positive(epochs=self.epochs)
        options.seed(seed=self.seed)
        once = len(self.methods) == len(set(self.methods))
        options.require(once, "--methods must name each method once")
        for name in self.methods:
            base, members = voters(name)
            known = name in TITLES or ((".py:" in base or base in tasks.NAMED) and members > 0)
            there = f"--methods {name}: there are {', '.join(TITLES)}, and FILE.py:FUNCTION"
            options.require(known, there)

    def chosen(self, task: Task) -> list[str]:
        """The methods to compare, by name."""
        if self.methods:
            return list(self.methods)
        named = [name for name in TITLES if name not in SLOW]
        return [name for name in named if task.dataset is not None or name not in tasks.NAMED]


def title(name: str) -> str:
    """What a method is called."""
    base, members = voters(name)
    return TITLES.get(base, base) + (f", {members} votes" if members > 1 else "")


def voters(name: str) -> tuple[str, int]:
    """A recipe's name, and how many networks of it vote on each split; 0: no number."""
    base, star, number = name.rpartition("*")
    if not star:
        return name, 1
    return base, int(number) if number.isdecimal() else 0


def is_network(name: str) -> bool:
    """Whether it is a recipe; these vote."""
    base, _ = voters(name)
    return base not in TITLES or base in tasks.NAMED


def file_name(name: str) -> str:
    """A method's name, for a file."""
    return re.sub(r"\W+", "_", name)


def flat(task: Task) -> np.ndarray:
    """Inputs [N, features] as scikit-learn's methods take them; images from 0 to 1."""
    import numpy as np

    inputs: np.ndarray = np.asarray(task.data[0], np.float64).reshape(task.rows, -1)
    if task.images is None:
        return inputs
    return inputs / (16 if task.dataset is not None else max(float(inputs.max()), 1e-9))


class Predictions(NamedTuple):
    """What a method makes of the test rows of R splits."""

    rows: np.ndarray  # int32 [R, S], row numbers; -1 is padding
    predicted: np.ndarray  # int32 [R, S], classes; -1 is padding
    logits: np.ndarray  # float32 [R, S, K], or logarithms of probabilities; [R, S, 0]: none
    seconds: float  # of training and predicting, all splits together
    chosen: list[dict[str, Any]]  # [R], what a method tuned inside the training rows; else empty

    def accuracies(self, labels: np.ndarray) -> np.ndarray:
        """Fraction of the test rows that are right, float64 [R]; labels int [N]."""
        right = (self.predicted == labels[self.rows]) & (self.rows >= 0)
        accuracies: np.ndarray = right.sum(axis=1) / (self.rows >= 0).sum(axis=1)
        return accuracies


def estimator(name: str, seed: int, *, gammas: tuple[Any, ...] = GAMMAS) -> Any:
    """scikit-learn's model of that name, for inputs of 0 to 1; its defaults but for what is said.

    The forest has 200 trees. The SVM's C and gamma are those of the best accuracy in three
    stratified folds of the rows that it is given, then it is fitted to all of these.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    match name:
        case "knn1":
            return KNeighborsClassifier(1)
        case "knn3":
            return KNeighborsClassifier(3)
        case "logistic":
            return LogisticRegression(max_iter=1000)
        case "forest":
            return RandomForestClassifier(200, random_state=seed)
        case "mlp":
            return MLPClassifier(max_iter=1000, random_state=seed)  # it stops by itself
        case "svm" | "svm_jitter":
            inner = StratifiedKFold(3, shuffle=True, random_state=seed)
            grid = {"C": [10], "gamma": list(gammas)}
            return GridSearchCV(SVC(), grid, cv=inner)
    raise ValueError(f"no method is called {name!r}")


def predict_all(
    config: Options, task: Task, splits: Split, names: list[str], output: Output
) -> dict[str, Predictions]:
    """The predictions of all methods asked for; ``names`` are those of the splits [R]."""
    methods = config.chosen(task)
    found = sorted(path.name for path in output.folder.glob("predictions_*.npz"))
    if found and not config.resume:
        raise options.UsageError(
            f"{output.folder} holds {found[0]} already; add --resume to go on with it, or choose "
            "another --output-dir"
        )
    networks = {name: _Network(config, name, task, splits) for name in methods if is_network(name)}
    output.claim()
    done: dict[str, Predictions] = {}
    for name in methods:
        network = networks.get(name)
        identity = _identity(config, name, task, splits, network)
        path = output.folder / f"predictions_{file_name(name)}.npz"
        if path.exists():
            done[name], known = load(path)
            _refuse_difference(path, known, identity)
        else:
            if network is not None:
                done[name] = network.predict(task, names, output)
            else:
                done[name] = _predict(name, task, splits, config.seed)
            _save(path, done[name], identity, output)
        console.results.print(
            f"{title(name)}: {100 * done[name].accuracies(task.targets).mean():.2f} % of the "
            f"test rows, mean of {len(names)} splits; {done[name].seconds:.0f} s",
            highlight=False,
        )
    return done


class _Network:
    """A recipe on these splits."""

    def __init__(self, config: Options, name: str, task: Task, splits: Split) -> None:
        import digits_jax as dj

        self.name, self.config = name, config
        base, self.members = voters(name)
        self.plan = tasks.load_plan(base, task, epochs=config.epochs)
        self.runs = dj.make_runs(
            splits, self.plan.hyperparameters, members=self.members, seed=config.seed
        )

    def identity(self, task: Task) -> dict[str, Any]:
        """Of what trains on these data, and by which program."""
        import jax

        from digits_jax.runs.checks import check_data
        from digits_jax.runs.identity import describe, describe_program
        from digits_jax.runs.preparation import prepare

        data, recipe = check_data(task.data), self.plan.recipe
        runs, state = prepare(data, self.runs, recipe, self.plan.epochs)
        return {
            "epochs": self.plan.epochs,
            **describe(data, self.runs, recipe),
            **describe_program(data, runs, recipe, state, device=jax.devices()[0]),
        }

    def predict(self, task: Task, names: list[str], output: Output) -> Predictions:
        import numpy as np

        console.results.print(f"{title(self.name)}:", highlight=False)
        members = [f", member {m + 1}" for m in range(self.members)] if self.members > 1 else [""]
        of_runs = [name + member for member in members for name in names]
        result = training.train(
            task.data,
            self.runs,
            of_runs,
            output,
            self.plan,
            part=file_name(self.name),
            seed=self.config.seed,
            resume=self.config.resume,
        )
        logits = result.outputs
        options.require(
            task.has_logits(logits), f"{self.name} gives no logits of the classes, and can't vote"
        )
        diverged = ~np.isfinite(logits).all((1, 2))
        options.require(
            not diverged.any(), f"{self.name} diverged: {of_runs[int(diverged.argmax())]}"
        )
        if self.members > 1:  # [members, splits, S, K]
            each = logits.reshape(self.members, len(names), *logits.shape[1:])
            combine = self.plan.recipe.combined
            logits = np.stack([np.asarray(combine(each[:, i])) for i in range(len(names))])
        rows = result.test_rows[: len(names)]
        predicted = np.where(rows >= 0, logits.argmax(axis=-1), -1).astype(np.int32)
        seconds = sum(result.seconds.values())
        return Predictions(rows, predicted, logits, seconds, [{} for _ in names])


def _predict(name: str, task: Task, splits: Split, seed: int) -> Predictions:
    """A method of scikit-learn, fitted to one split after another, a process on each core."""
    import joblib
    import numpy as np

    started = time.perf_counter()
    inputs = flat(task)
    gammas = GAMMAS if task.dataset is not None else ("scale", 0.3 / inputs.shape[1])
    copies = jittered(task, seed) if name == "svm_jitter" else None
    rows = np.where(splits.test_weights > 0, splits.test_rows, -1).astype(np.int32)
    predicted, chosen = np.full_like(rows, -1), []
    assert task.class_names is not None
    logits = np.zeros((*rows.shape, len(task.class_names)), np.float32)
    tasks = (
        joblib.delayed(_fit)(
            name,
            inputs,
            task.targets,
            splits.train_rows[i][splits.train_weights[i] > 0],
            rows[i][rows[i] >= 0],
            int(np.random.SeedSequence((seed, i)).generate_state(1)[0]),
            gammas,
            task.images is None,
            copies,
        )
        for i in range(len(rows))
    )
    with console.results.status(title(name)) as status:
        answers = joblib.Parallel(n_jobs=-1, return_as="generator")(tasks)
        for i, (classes, tuned, (known, values)) in enumerate(answers):
            predicted[i, rows[i] >= 0] = classes
            logits[i] = np.log(LEAST)  # of a class that the training rows lack
            logits[i][np.ix_(rows[i] >= 0, known)] = values
            chosen.append(tuned)
            status.update(f"{title(name)}: {i + 1} of {len(rows)} splits")
    return Predictions(rows, predicted, logits, time.perf_counter() - started, chosen)


def _fit(
    name: str,
    inputs: np.ndarray,
    labels: np.ndarray,
    train: Any,
    test: Any,
    seed: int,
    gammas: tuple[Any, ...],
    scaled: bool,
    copies: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, Any], tuple[np.ndarray, np.ndarray]]:
    """One split: the classes [S] predicted for the test rows, and what was tuned.

    Last the K' classes that the model knows, and the log-probabilities [S, K'] that it gives them.
    """
    import numpy as np

    if scaled:  # by the training rows alone
        from sklearn.preprocessing import StandardScaler

        inputs = StandardScaler().fit(inputs[train]).transform(inputs)
    model = estimator(name, seed, gammas=gammas).fit(inputs[train], labels[train])
    if copies is not None:  # [copies, N, features]: of the training rows alone
        more = np.concatenate([inputs[train], *copies[:, train]])
        model.best_estimator_.fit(more, np.tile(labels[train], 1 + len(copies)))
    logits = _logits(model, inputs[train], labels[train], inputs[test])
    return model.predict(inputs[test]), getattr(model, "best_params_", {}), (model.classes_, logits)


def jittered(task: Task, seed: int) -> np.ndarray:
    """Copies of all rows [COPIES, N, features], changed as the strong recipe changes them."""
    import jax
    import numpy as np

    import digits_jax as dj

    options.require(task.dataset is not None, "svm_jitter knows how digits may be changed alone")
    jitter = dj.recipe_by_name("strong").recipe.augment
    assert isinstance(jitter, dj.Jitter)
    changed = jax.jit(jitter.changed)
    keys = jax.random.split(jax.random.key(seed), COPIES)
    copies = np.stack([np.asarray(changed(key, task.data[0])) for key in keys])
    return copies.reshape(COPIES, task.rows, -1).astype(np.float64) / 16


def _logits(model: Any, inputs: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Log-probabilities [S, K'] of test rows, by a model that was fitted to inputs and labels.

    An SVM has none of its own: its scores are divided by the temperature of scores that it gives
    for each third of the training rows when fitted to the others.
    """
    import numpy as np
    from sklearn.model_selection import cross_val_predict

    from digits_jax.calibration import fit_temperature

    if hasattr(model, "predict_proba"):
        return np.asarray(np.log(np.maximum(model.predict_proba(test), LEAST)))
    best = getattr(model, "best_estimator_", model)
    held_out = cross_val_predict(best, inputs, labels, cv=3, method="decision_function")
    codes = np.searchsorted(model.classes_, labels)
    if held_out.ndim == 1:  # of two classes, one score
        held_out = np.stack([-held_out, held_out], axis=1) / 2
    scores = model.decision_function(test)
    scores = np.stack([-scores, scores], axis=1) / 2 if scores.ndim == 1 else scores
    return np.asarray(scores / fit_temperature(held_out, codes))


def _identity(
    config: Options, name: str, task: Task, splits: Split, network: _Network | None
) -> dict[str, Any]:
    """What predictions must share to be reused."""
    import sklearn

    from digits_jax.runs.identity import digest_of

    if network is not None:
        return network.identity(task)
    return {
        "method": repr(estimator(name, config.seed)),
        "scikit-learn": sklearn.__version__,
        "seed": config.seed,
        "data.sha256": task.provenance.sha256,
        "splits.sha256": digest_of(splits),
    }


def _save(path: Path, done: Predictions, identity: dict[str, Any], output: Output) -> None:
    about = {"identity": identity, "seconds": done.seconds, "chosen": done.chosen}
    output.arrays(
        path.name,
        rows=done.rows,
        predicted=done.predicted,
        logits=done.logits,
        about=json.dumps(about),
    )


def load(path: Path) -> tuple[Predictions, dict[str, Any]]:
    """The predictions that a script wrote, and the identity of what made them."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = (file["rows"], file["predicted"], file["logits"])
            done = Predictions(*arrays, about["seconds"], about["chosen"])
            return done, about["identity"]
    except Exception as error:  # zipfile, NumPy and json have some ten ways to say so
        raise options.UsageError(
            f"{path} is damaged, or not of this script ({error}); delete it to have it made again"
        ) from error


def _refuse_difference(path: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    from digits_jax.runs.refusals import refuse_other_training
    from digits_jax.storage.errors import CheckpointError

    try:
        remedy = "delete it, or choose another --output-dir"
        refuse_other_training(path, known, wanted, remedy=remedy)
    except CheckpointError as error:
        raise options.UsageError(str(error)) from error


def by_row(done: Predictions, repeats: int, rows: int) -> np.ndarray:
    """The class predicted for each row in each repeat of k folds, int32 [repeats, N]."""
    import numpy as np

    answers = np.full((repeats, rows), -1, np.int32)
    tested, predicted = (each.reshape(repeats, -1) for each in (done.rows, done.predicted))
    for repeat in range(repeats):
        real = tested[repeat] >= 0
        answers[repeat, tested[repeat][real]] = predicted[repeat][real]
    return answers
