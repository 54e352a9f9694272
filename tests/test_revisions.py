"""``benchmark.py --against``: what counts as the same bits and as slower, git, and a real run."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from digits_jax import kfold_splits, load_digits

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
NETWORK = 102_794  # the notebook's parameters
pytestmark = [
    pytest.mark.slow,  # two revisions in processes of their own
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """``revisions.py`` as a module; ``benchmark`` and ``bits`` can be imported beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        patch.syspath_prepend(EXPERIMENTS / "peers")
        yield importlib.import_module("revisions")


def _commit(folder: Path) -> Path:
    """Makes the folder a git checkout whose only commit has all its files."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    nobodys = dict.fromkeys(("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"), os.devnull)
    for words in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True, env={**os.environ, **nobodys})
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with a package of nothing."""
    package = tmp_path / "checkout" / "digits_jax"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    return _commit(package.parent)


def _worktrees(root: Path) -> int:
    command = ["git", "worktree", "list"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.count("\n")


def _trained(**changes: Any) -> dict[str, dict[str, Any]]:
    """Parts as of a small training; a change replaces a part."""
    kernel = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    parts: dict[str, dict[str, Any]] = {
        "history": {"": np.array([[0.5, np.nan]], np.float32)},
        "params": {"bias": np.zeros(3, np.float32), "kernel": kernel},
        "average": {},
        "outputs": {"": np.zeros((1, 0, 10), np.float32)},
    }
    return parts | changes


def _differences(script: ModuleType, **changes: Any) -> list[Any]:
    found: list[Any] = script.compare_bits(_trained(), _trained(**changes))
    return found


def test_equal_bits_are_the_same_nan_and_nothing_included(script: ModuleType) -> None:
    assert _differences(script) == []


def test_a_flipped_last_bit_is_found_and_named(script: ModuleType) -> None:
    params = _trained()["params"]
    kernel = params["kernel"].copy()
    kernel.view(np.uint32)[1, 2] ^= 1  # 1 becomes the next smaller or greater number
    (found,) = _differences(script, params=params | {"kernel": kernel})
    step = abs(float(kernel[1, 2]) - 1)
    assert 0 < step < 2e-7
    assert (found.part, found.values, found.absolute) == ("params", 1, step)
    assert found.relative == pytest.approx(step, rel=1e-6)
    assert f"first kernel[1, 2]: 1.0 here, {kernel[1, 2]!s} there" in found.text
    assert "1 of 9 values differ" in found.text


def test_largest_differences_and_their_number_are_of_all_leaves(script: ModuleType) -> None:
    params = _trained()["params"]
    bias = np.array([0, 0.25, 0], np.float32)  # instead of 0: half its size is another's
    (found,) = _differences(script, params={"bias": bias, "kernel": params["kernel"] * 2})
    assert (found.values, found.absolute, found.relative) == (7, 1.0, 1.0)
    assert "first bias[1]: 0.0 here, 0.25 there" in found.text


@pytest.mark.parametrize(("there", "absolute"), [([[-0.0, 1.0]], 0.0), ([[0.0, np.nan]], math.inf)])
def test_minus_zero_and_nan_differ_from_numbers(
    script: ModuleType, there: list[list[float]], absolute: float
) -> None:
    here = {"history": {"": np.array([[0.0, 1.0]], np.float32)}}
    (found,) = script.compare_bits(here, {"history": {"": np.array(there, np.float32)}})
    assert (found.values, found.absolute, found.relative) == (1, absolute, absolute)


def test_parts_that_differ_come_in_order(script: ModuleType) -> None:
    parts = {name: {"": np.zeros(2)} for name in ("history", "params", "outputs")}
    other = {name: {"": np.ones(2)} for name in parts}
    assert [each.part for each in script.compare_bits(parts, other)] == list(parts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"params": {}}, "not compared, 2 leaves here and no leaves there"),
        ({"params": {"bias": np.zeros(3, np.float32)}}, "2 leaves here and 1 leaf there"),
        ({"average": {"a": np.zeros(1)}}, "no leaves here and 1 leaf there"),
        ({"moments": {"a": np.zeros(1)}}, "no leaves here and 1 leaf there"),
        ({"outputs": {"": np.zeros((1, 0, 9), np.float32)}}, "it is float32[1, 0, 10] here and"),
        ({"history": {"": np.array([[0.5, np.nan]])}}, "float64[1, 2] there"),
    ],
)
def test_what_cannot_be_compared_is_said(
    script: ModuleType, change: dict[str, Any], said: str
) -> None:
    (found,) = _differences(script, **change)
    assert found.part in change and found.values == 0 and said in found.text


def test_a_field_that_neither_side_has_is_said(script: ModuleType) -> None:
    side = {"absent": ["average"], "versions": {"jaxlib": "1"}, "others_share": None, "times": {}}
    assert any("neither side has them: average" in line for line in _notes(script, side, side))
    other = side | {"absent": []}
    assert not any("neither" in line for line in _notes(script, side, other))


def test_other_versions_are_said(script: ModuleType) -> None:
    here = {"absent": [], "versions": {"jaxlib": "1"}, "others_share": 0.5, "times": {}}
    (line,) = _notes(script, here, here | {"versions": {"jaxlib": "2"}})
    assert "Versions differ (jaxlib 1 here and 2 there)" in line


def _notes(script: ModuleType, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    lines: list[str] = script.footnotes([{"here": here, "there": there}], [])
    return lines


def test_the_interval_is_students_on_logarithms(script: ModuleType) -> None:
    here, there = np.array([1.1, 2.4, 3.0]), np.array([1.0, 2.0, 3.0])  # ratios 1.1, 1.2, 1.0
    logarithms = np.log([1.1, 1.2, 1.0])
    middle = logarithms.mean()
    half = 4.302652729911275 * logarithms.std(ddof=1) / math.sqrt(3)  # t(0.975, 2)
    ratio = script.compare_seconds(here, there)
    assert ratio == pytest.approx(np.exp([middle, middle - half, middle + half]))
    assert ratio.low < 1 and script.verdict(ratio) == "not slower"


def test_slower_is_what_no_interval_around_1_can_be(script: ModuleType) -> None:
    ratio = script.compare_seconds([1.1, 1.11, 1.12], [1.0, 1.0, 1.0])
    low, high = 100 * (ratio.low - 1), 100 * (ratio.high - 1)
    assert 8 < low < 11 < high < 14
    assert script.verdict(ratio) == f"slower by {low:.1f} to {high:.1f} %"
    assert script.verdict(script.compare_seconds([1, 1, 1], [1.1, 1.11, 1.12])) == "not slower"
    single = script.compare_seconds([2.0], [1.0])
    assert single.mean == pytest.approx(2) and script.verdict(single) == "one round: no interval"


def test_a_revision_is_a_commit_or_refused(script: ModuleType, checkout: Path) -> None:
    commit = script.find_commit(checkout, "HEAD")
    assert len(commit) == 40 and script.find_commit(checkout, commit[:10]) == commit
    for revision in ("nosuch", "", "--all", "HEAD:digits_jax"):
        with pytest.raises(script.options.UsageError, match="no such commit, branch or tag"):
            script.find_commit(checkout, revision)
    with pytest.raises(script.options.UsageError, match="only a folder in that of"):
        script.find_commit(checkout / "digits_jax", "HEAD")
    with pytest.raises(script.options.UsageError, match="needs a git checkout.*not a git repo"):
        script.find_commit(checkout.parent, "HEAD")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_worktree_is_the_commits_and_goes(
    script: ModuleType, checkout: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    (checkout / "digits_jax" / "__init__.py").write_text("changed = True")
    commit, tree = script.find_commit(checkout, "HEAD"), tmp_path / "tree"
    with pytest.raises(error), script.worktree(checkout, commit, tree):
        assert (tree / "digits_jax" / "__init__.py").read_text() == ""
        assert _worktrees(checkout) == 2
        raise error
    assert not tree.exists() and _worktrees(checkout) == 1


def test_a_tree_that_git_cannot_make_is_one_line(
    script: ModuleType, checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "tree").write_text("in the way")
    commit = script.find_commit(checkout, "HEAD")
    with (
        pytest.raises(script.options.UsageError, match="git can't check out .*: fatal"),
        script.worktree(checkout, commit, tmp_path / "tree"),
    ):
        pass
    assert _worktrees(checkout) == 1


def test_a_package_of_another_tree_is_refused(script: ModuleType, tmp_path: Path) -> None:
    task = tmp_path / "task.npz"
    np.savez(task, tree=str(tmp_path))
    with pytest.raises(RuntimeError, match=f"digits_jax is .*, not in {tmp_path}"):
        script.run_program(script.child_program("the working tree", ROOT), task, 100.0)


class _States(NamedTuple):
    params: Any
    step: Any


class _Named(NamedTuple):
    """The result of ``preset`` and of ``recipe_by_name``."""

    recipe: Any
    hyperparameters: Any
    epochs: int


def _package(generation: int) -> SimpleNamespace:
    """A package with the interface of today (0), or of one of two later steps."""
    result = SimpleNamespace(
        states=_States({"a": np.ones(2, np.float32)}, np.int32(7)), seconds={"compile": 3.0}
    )
    if generation < 2:
        result.history = SimpleNamespace(loss=1, accuracy=2)
        result.logits, result.loss, result.accuracy = 3, 4, 5
    else:
        result.history, result.outputs = {"loss": 1, "accuracy": 2, "error": 9}, 3
        result.scores = {"loss": 4, "accuracy": 5, "error": 9}

    def name_with_rows(name: str, *, train_rows: Any, epochs: int) -> _Named:
        assert train_rows.tolist() == [4, 3]
        return _Named(f"{name} for {epochs}", "h", epochs)

    def name_alone(name: str, *, epochs: int) -> _Named:
        return _Named(f"{name} for {epochs}", "h", epochs)

    def runs_by_keyword(splits: Any, *, hyperparameters: Any = None, seed: int = 1) -> Any:
        return splits.train_rows, hyperparameters, seed

    def runs_by_position(splits: Any, h: Any = None, *, seed: int = 1) -> Any:
        return splits.train_rows, h, seed

    def train(data: Any, runs: Any, recipe: str, epochs: int, on_epoch: Any) -> Any:
        assert runs == ("rows", "h", 0) and recipe == "strong for 2" and epochs == 2
        assert (data if generation == 2 else data.pair) == ("images", "labels")
        for _ in range(epochs):
            on_epoch(SimpleNamespace())
        return result

    def of_experiment(data: Any, runs: Any, *, experiment: Any, epochs: int, on_epoch: Any) -> Any:
        return train(data, runs, experiment, epochs, on_epoch)

    def of_recipe(data: Any, runs: Any, *, recipe: Any, epochs: int, on_epoch: Any) -> Any:
        return train(data, runs, recipe, epochs, on_epoch)

    package = SimpleNamespace(
        make_runs=runs_by_keyword if generation < 2 else runs_by_position,
        cross_validate=of_recipe if generation else of_experiment,
    )
    if generation < 2:
        package.Examples = lambda images, labels: SimpleNamespace(pair=(images, labels))
    setattr(
        package,
        "recipe_by_name" if generation else "preset",
        name_with_rows if generation < 2 else name_alone,
    )
    return package


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_each_interface_of_the_package_is_known(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, generation: int
) -> None:
    child, package = importlib.import_module("revision_folds"), _package(generation)
    for name, value in {"dj": package, **vars(package)}.items():
        if hasattr(child, name):
            monkeypatch.setattr(child, name, value)
    ends: list[int] = []
    weights = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    split = SimpleNamespace(train_rows="rows", train_weights=weights)
    trained = child.train(
        "strong", "images", "labels", split, epochs=2, on_epoch=lambda: ends.append(1)
    )
    assert len(ends) == 2
    assert trained.history == {"loss": 1, "accuracy": 2} and trained.compile_seconds == 3.0
    assert trained.outputs == 3 and trained.scores == {"loss": 4, "accuracy": 5}
    parts = child.parts_of(trained)
    assert list(parts["params"]) == ["['a']"] and parts["average"] == {} and "step" not in parts


class Case(NamedTuple):
    """What the fake program of ``fake_run`` gives for the working tree, and what follows."""

    weight: float
    seconds: float
    code: int
    said: str


@pytest.mark.parametrize(
    "case",
    [
        Case(1.0, 1.00, 0, "same bits"),
        Case(1.0, 1.03, 0, "slower by 3.0 to 3.0 %"),
        Case(1.0, 1.07, 1, "slower by 7.0 to 7.0 %"),
        Case(1.0, 0.50, 0, "not slower"),
        Case(1.1, 1.00, 1, "DIFFERENT: notebook, folds: params: 1 of 2 values differ"),
    ],
)
def test_status_and_report(
    script: ModuleType,
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: Case,
) -> None:
    order: list[str] = []

    def run_program(peer: Any, task: Path, timeout: float) -> dict[str, Any]:
        with np.load(task) as file:
            here, out = str(file["tree"]) == str(checkout), str(file["trained"])
        order.append("here" if here else "there")
        weights = [case.weight if here else 1.0, 2.0]
        np.savez(out, **{"notebook, folds: params/0": np.array(weights, np.float32)})
        slow = case.seconds if here else 1.0
        times = {"compile_seconds": 1.0, "epoch_seconds": slow * (1 + len(order) // 3)}
        return {
            "leaves": {"notebook, folds: params": ["kernel"]},
            "absent": [],
            "times": {"notebook": times},
            "import_seconds": 1.0,
            "versions": {"jaxlib": "1"},
            "others_share": 0.0,
        }

    benchmark = importlib.import_module("benchmark")
    monkeypatch.setattr(script, "ROOT", checkout)
    monkeypatch.setattr(script, "run_program", run_program)
    monkeypatch.setenv("COLUMNS", "200")
    config = benchmark.Config(against="HEAD", data="bundled", rounds=2, output_dir=tmp_path / "out")
    code = 0
    try:
        benchmark.main(config)
    except SystemExit as stop:
        code = int(str(stop.code))
    importlib.import_module("common.console").results.release()  # as at a script's end
    shown = capsys.readouterr().out
    assert code == case.code and case.said in shown, shown
    assert order == ["there", "here", "here", "there"]
    report = json.loads((tmp_path / "out" / "against.json").read_text())
    assert report["passed"] is (code == 0)
    assert report["same_bits"] is (case.weight == 1)
    assert report["ratios"]["notebook, epoch"]["mean"] == pytest.approx(case.seconds)
    assert report["rounds"][0]["here"]["values"] == {"notebook, folds: params": 2}
    assert _worktrees(checkout) == 1


def test_a_program_that_fails_ends_it(
    script: ModuleType, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_program(*_: Any) -> dict[str, Any]:
        raise RuntimeError("no memory")

    benchmark = importlib.import_module("benchmark")
    monkeypatch.setattr(script, "ROOT", checkout)
    monkeypatch.setattr(script, "run_program", run_program)
    config = benchmark.Config(against="HEAD", data="bundled", output_dir=tmp_path / "out")
    with pytest.raises(SystemExit, match="HEAD failed: no memory"):
        benchmark.main(config)
    assert _worktrees(checkout) == 1


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git checkout with this code: whatever is changed here and not committed, its HEAD has."""
    folder = tmp_path_factory.mktemp("revisions") / "copy"
    for name in ("digits_jax", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return _commit(folder)


def _run(copy: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "experiments/benchmark.py", "--data", "bundled", *options]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)


def test_an_unknown_revision_is_refused_in_a_line(copy: Path) -> None:
    done = _run(copy, "--against", "nosuch")
    assert done.returncode == 2 and done.stdout == "" and not (copy / "runs").exists()
    assert done.stderr.startswith("error: --against nosuch:") and done.stderr.count("\n") == 1


def test_this_code_has_the_bits_of_this_code(copy: Path) -> None:
    done = _run(copy, "--against", "HEAD", "--bits-only", "--output-dir", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bits") == 3 and "DIFFERENT" not in done.stdout
    report = json.loads((copy / "out" / "against.json").read_text())
    assert report["passed"] and report["same_bits"] and report["differences"] == []
    values = report["rounds"][0]["here"]["values"]
    assert values["notebook, folds: params"] == 5 * NETWORK
    assert values["notebook, folds: opt_state"] == 2 * 5 * NETWORK
    assert values["notebook, refit: history.loss"] == 3
    assert values["strong, folds+refit: average"] > values["strong, folds+refit: params"] > 0
    tested = kfold_splits(load_digits("bundled").labels, 5).test_rows.shape[1]
    assert values["strong, folds+refit: outputs"] == 6 * tested * 10
    assert _worktrees(copy) == 1
