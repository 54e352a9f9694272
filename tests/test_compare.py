"""compare.py and methods.py: equal splits, no leaks, true figures, and a resume that adds."""

from __future__ import annotations

import csv
import gc
import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

import baselines
import digits_jax as dj
from common.tasks import load_task
from digits_jax.statistics import smallest_difference

SCRIPT = Path(__file__).parents[1] / "experiments" / "compare.py"
COMMON = ["--data", "bundled", "--folds", "2", "--repeats", "2", "--epochs", "1"]
METHODS = ("knn1", "logistic", "notebook")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def methods() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("methods")


@pytest.fixture
def run(
    methods: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The script in this process, which has started JAX already: exit code, stdout, stderr."""
    command_line = importlib.import_module("common.command_line")
    compare = importlib.import_module("compare")
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        code = 0
        try:
            with joblib.parallel_config("sequential"):
                command_line.run(compare.Config, compare.main, compare.__doc__)
        except SystemExit as stop:
            code = int(stop.code or 0)
        gc.collect()  # a folder's lock ends with the process, here with what holds it
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run as a user makes it, with processes of joblib's own."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    words = [*COMMON, "--methods", *METHODS, "--output-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "1 nearest neighbour: 98." in done.stdout
    return folder


def _scores(folder: Path) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    with (folder / "scores.csv").open() as file:
        for row in csv.DictReader(file):
            scores.setdefault(row["method"], []).append(float(row["accuracy"]))
    return scores


def test_methods_share_the_folds_of_scikit_learn(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.name[0] != "."} == {
        "accuracy.png",
        "checkpoints",
        "common_errors.png",
        "options.json",
        "pairs.csv",
        "report.html",
        "results.json",
        "scores.csv",
        *(f"predictions_{name}.npz" for name in METHODS),
    }
    digits = dj.load_digits("bundled")
    pixels = digits.images.reshape(len(digits.labels), -1)
    expected = [
        score
        for repeat in range(2)
        for score in cross_val_score(
            KNeighborsClassifier(1),
            pixels,
            digits.labels,
            cv=StratifiedKFold(2, shuffle=True, random_state=repeat),
        )
    ]
    assert _scores(finished)["knn1"] == pytest.approx(expected, rel=1e-12)
    rows = [np.load(finished / f"predictions_{name}.npz")["rows"] for name in METHODS]
    for each in rows:
        np.testing.assert_array_equal(each, rows[0])


def test_figures_are_those_of_the_scores(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    scores = _scores(finished)
    assert list(results["methods"]) == sorted(scores, key=lambda name: -np.mean(scores[name]))
    for name, values in scores.items():
        accuracy = results["methods"][name]["accuracy"]
        assert accuracy["mean"] == pytest.approx(np.mean(values))
        reach = stats.t.ppf(0.975, 3) * np.std(values, ddof=1) * np.sqrt(1 / 4 + 1)  # 899:898 rows
        assert accuracy["ci95"][0] == pytest.approx(max(np.mean(values) - reach, 0), abs=1e-4)
        errors = results["methods"][name]["errors_a_repeat"]
        assert errors == pytest.approx(1797 * (1 - np.mean(values)), abs=1)
    assert [(pair["a"], pair["b"]) for pair in results["pairs"]] == [
        ("knn1", "logistic"),
        ("knn1", "notebook"),
    ]
    pair = results["pairs"][0]
    d = np.subtract(scores["knn1"], scores["logistic"])
    t = d.mean() / (d.std(ddof=1) * np.sqrt(1 / 4 + 1))
    assert pair["t"] == pytest.approx(t, rel=1e-3)
    assert pair["p"] == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-3)
    assert pair["p"] <= pair["p_holm"] <= 2 * pair["p"]
    error = d.std(ddof=1) * np.sqrt(1 / 4 + 1)
    better = stats.t.sf(0.001, 3, d.mean(), error)  # beyond a tenth of a point
    assert pair["p_better"] == pytest.approx(better, rel=1e-2)
    assert sum(pair[f"p_{each}"] for each in ("better", "equal", "worse")) == pytest.approx(1)

    labels = dj.load_digits("bundled").labels
    wrong = {}
    for name in ("knn1", "logistic"):
        file = np.load(finished / f"predictions_{name}.npz")
        wrong[name] = np.zeros((2, 1797), bool)
        for lane, (rows, predicted) in enumerate(zip(file["rows"], file["predicted"], strict=True)):
            real = rows >= 0
            wrong[name][lane // 2, rows[real]] = predicted[real] != labels[rows[real]]
    both = (wrong["knn1"] & wrong["logistic"]).sum() / 2
    common = results["common_errors_a_repeat"]
    assert common["methods"][:2] == ["knn1", "logistic"] and common["counts"][0][1] == both
    assert pair["only_b_right"] == (wrong["knn1"] & ~wrong["logistic"]).sum() / 2
    p = [
        stats.binomtest(int((a & ~b).sum()), int((a ^ b).sum())).pvalue
        for a, b in zip(wrong["knn1"], wrong["logistic"], strict=True)
    ]
    found = smallest_difference(d.std(ddof=1), 4, train_rows=898.5, test_rows=898.5)
    assert pair["finds_80"] == pytest.approx(found, rel=1e-3)
    assert pair["mcnemar_below_5_percent"] == sum(each < 0.05 for each in p)
    assert pair["mcnemar_repeats"] == 2


def test_probabilities_are_scored(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    labels = dj.load_digits("bundled").labels
    for name in METHODS:
        file = np.load(finished / f"predictions_{name}.npz")
        losses = []
        for repeat in range(2):
            rows, logits = (file[each][2 * repeat : 2 * repeat + 2] for each in ("rows", "logits"))
            real = rows >= 0
            losses.append(log_loss(labels[rows[real]], softmax(logits[real].astype(float), axis=1)))
        found = results["methods"][name]["probabilities"]
        assert found["nll"] == pytest.approx(np.mean(losses), rel=1e-6)
        assert 0 < found["calibration_error"] < 1 and 0 < found["brier"] < 2


def test_p_values_claim_no_more_than_they_can(methods: ModuleType) -> None:
    verdicts = importlib.import_module("verdicts")
    texts = [verdicts.p_text(p) for p in (0.0312, 1.2e-6, 3e-11, float("nan"))]
    assert texts == ["0.031", "1.2e-06", "< 10⁻⁶", "–"]


def test_a_resumed_run_takes_what_is_there_and_adds_a_method(finished: Path, run: Run) -> None:
    files = [finished / f"predictions_{name}.npz" for name in METHODS]
    before, scores = [path.stat().st_mtime_ns for path in files], _scores(finished)
    words = [*COMMON, "--output-dir", finished, "--methods", "knn3", *METHODS]
    code, _, errors = run(*words)
    assert code == 2 and "holds a run already (results.json); add --resume" in errors
    (finished / "results.json").unlink()
    code, _, errors = run(*words, "--resume")
    assert code == 0, errors
    assert [path.stat().st_mtime_ns for path in files] == before
    after = _scores(finished)
    assert {name: after[name] for name in METHODS} == scores and len(after["knn3"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "1", "--methods", "knn1"], "started with seed 0, now 1"),
        (["--repeats", "1", "--methods", "knn1"], "started with other splits"),
        (["--epochs", "2", "--methods", "notebook"], "started with epochs 1, now 2"),
    ],
)
def test_predictions_of_another_run_are_refused(
    finished: Path, run: Run, arguments: list[str], message: str
) -> None:
    code, _, errors = run(*COMMON, "--output-dir", finished, "--resume", *arguments)
    assert code == 2 and "is of another training: " in errors and message in errors


def test_predictions_are_neither_overwritten_nor_trusted_blindly(tmp_path: Path, run: Run) -> None:
    (tmp_path / "predictions_knn1.npz").write_bytes(b"not an archive")
    words = [*COMMON, "--methods", "knn1", "--output-dir", tmp_path]
    code, _, errors = run(*words)
    assert code == 2 and "holds predictions_knn1.npz already; add --resume" in errors
    code, _, errors = run(*words, "--resume")
    assert code == 2 and "predictions_knn1.npz is damaged" in errors
    assert (tmp_path / "predictions_knn1.npz").read_bytes() == b"not an archive"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "1"], "--folds must be at least 2, not 1"),
        (["--repeats", "0"], "--repeats must be a positive number, not 0"),
        (["--epochs", "0"], "--epochs must be a positive number, not 0"),
        (["--methods", "svm", "svm"], "--methods must name each method once"),
        (["--methods", "nobody"], "--methods nobody: there are strong, notebook, svm"),
        (["--data", "bundled", "--folds", "500"], "500 that stratifying needs"),
    ],
)
def test_a_users_mistake_gets_one_line(
    tmp_path: Path, run: Run, arguments: list[str], message: str
) -> None:
    code, _, errors = run("--output-dir", tmp_path / "out", *arguments)
    assert code == 2 and message in errors.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_networks_that_vote(methods: ModuleType, run: Run, tmp_path: Path) -> None:
    words = [*COMMON, "--repeats", "1", "--methods", "notebook*2", "notebook"]
    code, _, errors = run(*words, "--output-dir", tmp_path)
    assert code == 0, errors
    votes, alone = (
        methods.load(tmp_path / f"predictions_{name}.npz")[0] for name in ("notebook_2", "notebook")
    )
    np.testing.assert_array_equal(votes.rows, alone.rows)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["methods"]["notebook*2"]["title"] == "CNN, notebook, 2 votes"
    # The first member is the network alone; the vote is the mean of both members' probabilities.
    shares = softmax(votes.logits.astype(float), axis=-1)
    one = softmax(alone.logits.astype(float), axis=-1)
    assert (2 * shares - one).min() > -1e-5 and np.abs(shares - one).max() > 1e-3
    assert [methods.voters(name) for name in ("strong", "strong*5", "a.py:f*x")] == [
        ("strong", 1),
        ("strong", 5),
        ("a.py:f", 0),
    ]


def test_the_svm_with_jittered_rows() -> None:
    task = load_task("bundled")
    copies = baselines.jittered(task, 0)
    pixels, labels = baselines.flat(task), task.targets
    assert copies.shape == (baselines.COPIES, *pixels.shape)
    assert 0.02 < np.abs(copies[0] - pixels).mean() < 0.2
    train, test = np.arange(300), np.arange(300, 700)
    more = (labels, train, test, 7)
    plain, tuned, _ = baselines.fit("svm", pixels, *more)
    answers, tuned_too, _ = baselines.fit("svm_jitter", pixels, *more, copies=copies)
    assert tuned == tuned_too  # the width is that of the rows as they are
    hidden = copies.copy()
    hidden[:, test] = 0  # copies of test rows have no part
    again, *_ = baselines.fit("svm_jitter", pixels, *more, copies=hidden)
    np.testing.assert_array_equal(answers, again)
    assert (answers == labels[test]).mean() > (plain == labels[test]).mean()


OTHERS_WARNINGS = pytest.mark.filterwarnings("ignore")  # PyTorch's and Lightning's of each other
REAL_MLP = pytest.param("realmlp", marks=(pytest.mark.slow, OTHERS_WARNINGS))


@pytest.mark.parametrize("name", ["knn1", "knn3", "logistic", "forest", "mlp", "svm", REAL_MLP])
def test_no_method_sees_the_test_labels_and_all_learn(name: str) -> None:
    if name == "realmlp":
        pytest.importorskip("pytabkit", reason="pip install pytabkit")
    digits = dj.load_digits("bundled")
    pixels, labels = digits.images[:450].reshape(450, -1) / 16, digits.labels[:450]
    train, test = np.arange(300), np.arange(300, 450)
    hidden = labels.copy()
    hidden[test] = (labels[test] + 1) % 10
    more = (train, test, 7)
    with threadpool_limits(1):  # matrix products this small wait for threads more than they gain
        predicted, tuned, (classes, logits) = baselines.fit(name, pixels, labels, *more)
        again, tuned_again, (_, logits_again) = baselines.fit(name, pixels, hidden, *more)
    np.testing.assert_array_equal(predicted, again)
    np.testing.assert_array_equal(logits, logits_again)
    assert (classes[logits.argmax(axis=1)] == predicted).mean() > 0.98  # an SVM's votes may differ
    assert tuned == tuned_again and set(tuned) == ({"C", "gamma"} if name == "svm" else set())
    assert (predicted == labels[test]).mean() > 0.85


def test_a_methods_runs_draw_differently_and_again_equally() -> None:
    task = load_task("bundled")
    split = dj.holdout_split(task.targets, test_size=0.9)
    splits = dj.stack_splits(split, split)
    with joblib.parallel_config("sequential"):
        one, same, other = (baselines.predict("forest", task, splits, s) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.predicted, same.predicted)
    assert (one.predicted[0] != one.predicted[1]).any()
    assert (one.predicted != other.predicted).any()


def test_padding_counts_nowhere(methods: ModuleType) -> None:
    rows = np.array([[0, 3], [1, -1], [2, 1], [0, -1]])
    predicted = np.array([[5, 6], [7, -1], [8, 4], [9, -1]])
    done: Any = methods.Predictions(rows, predicted, np.zeros((4, 2, 0)), 0.0, [{}] * 4)
    answers = methods.by_row(done, 2, 4)
    assert answers.tolist() == [[5, 7, -1, 6], [9, 4, 8, -1]]
    assert done.accuracies(np.array([5, 4, 8, -1])).tolist() == [0.5, 0, 1, 0]


def test_a_method_that_is_not_installed_is_said_before_any_training(tmp_path: Path) -> None:
    if importlib.util.find_spec("pytabkit") is not None:
        pytest.skip("pytabkit is installed")
    words = ["--data", "bundled", "--methods", "notebook", "realmlp", "--output-dir", "out"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and "pip install pytabkit" in done.stderr
    assert not (tmp_path / "out" / "checkpoints").exists()
