"""Every script refuses a wrong command line: one line that says why, exit code 2, nothing written.

The scripts run in this process; what would train ends the test instead.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import digits_jax

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))
SCRIPTS = sorted(
    path.stem for path in EXPERIMENTS.glob("*.py") if "\nclass Config" in path.read_text()
)
EXAMPLES = [
    f"examples/{path.stem}"
    for path in sorted(EXPERIMENTS.glob("examples/*.py"))
    if "optuna" not in path.stem or importlib.util.find_spec("optuna")  # an optional package
]
ZERO_IS_FINE = {"validation", "seed", "split_seed", "index", "label_smoothing"}
REQUIRED = {"predict": ["--checkpoint"], "leftovers": ["--run"]}
HUGE = "99999999999999999999"

Run = Callable[..., str]


class Began(Exception):
    """The arguments were accepted."""


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Calls a script with arguments that it must refuse; gives the line that it says."""
    command_line = importlib.import_module("common.command_line")
    monkeypatch.setattr(command_line, "terminated", signal.getsignal(signal.SIGTERM))
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)

    def began(*_: object, **__: object) -> None:
        raise Began

    for name in ("cross_validate", "train_in_waves"):
        monkeypatch.setattr(digits_jax, name, began)
    monkeypatch.chdir(tmp_path)

    def call(script: str, *arguments: object) -> str:
        module = importlib.import_module(script)
        words = [f"{script}.py", *map(str, arguments)]
        names = {field.name for field in dataclasses.fields(module.Config)}
        if "data" in names and "--data" not in words:
            words += ["--data", "bundled"]
        for flag in REQUIRED.get(script, ()):
            words += [] if flag in words else [flag, "none"]
        monkeypatch.setattr(sys, "argv", words)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            command_line.run(module.Config, module.main, module.__doc__)
        said = capsys.readouterr().err
        assert stop.value.code == 2, said
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        assert said.startswith("error: ") and said.count("\n") == 1, said
        return said

    return call


def _numbers(script: str) -> list[tuple[str, str]]:
    """Flags of a script that take one number, and values that none of them may have."""

    def many(hint: object) -> bool:
        return typing.get_origin(hint) is tuple

    hints = typing.get_type_hints(importlib.import_module(script).Config)
    cases = []
    for name, hint in hints.items():
        kinds = [hint]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        kinds = [typing.get_args(kind)[0] if many(kind) else kind for kind in kinds]
        values = []
        if many(hint):  # such as the numbers of a sweep, some of which may be 0
            values = ["-1", "nan", "x"] if kinds[0] in (int, float) and name != "index" else []
        elif kinds == [int]:
            values = ["-1", HUGE, "1.5", "nan", "x", ""]
        elif kinds == [float]:
            values = ["-1", "1e39", "nan", "inf", "x", ""]
        if values and not many(hint) and name not in ZERO_IS_FINE:
            values.append("0")
        flag = "--" + name.replace("_", "-")
        cases += [(flag, value) for value in values]
    return cases


@pytest.mark.parametrize("script", SCRIPTS)
def test_numbers_out_of_range(refused: Run, script: str) -> None:
    for flag, value in _numbers(script):
        assert flag in refused(script, flag, value), (flag, value)


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_and_incomplete_flags(refused: Run, script: str, tmp_path: Path) -> None:
    assert "--no-such-flag" in refused(script, "--no-such-flag", 3)
    if script not in ("compare_runs", "index"):  # which take folders by place
        assert "surplus" in refused(script, "surplus")
    names = [field.name for field in dataclasses.fields(importlib.import_module(script).Config)]
    last = "--output" if script == "predict" else "--output-dir"
    if script != "index":  # which writes where the runs are
        assert f"Missing value for argument '{last}'" in refused(script, last)
    if "output_dir" in names and script != "compare_runs":
        (tmp_path / "file").touch()
        assert "--output-dir file is not a folder" in refused(script, "--output-dir", "file")


@pytest.mark.parametrize(
    "script",
    [
        name
        for name in SCRIPTS
        if name not in (*REQUIRED, "compare_runs", "benchmark_networks", "coverage", "index")
    ],
)
def test_data_that_cannot_be_read(refused: Run, script: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "cell.csv").write_text("\n".join(["0," * 64 + "1", "0," * 64 + "x"]))
    for path, message in {
        "none.csv": "none.csv can't be read (No such file",
        "folder": "optdigits.tra can't be read",
        "cell.csv": "cell.csv, line 2, column class: 'x' is no integer",
        "/dev/null": "/dev/null isn't a file",
    }.items():
        assert message in refused(script, "--data", path)


@pytest.mark.parametrize(
    "script", ["ablate", "benchmark", "compare", "cross_validate", "speedrun", "sweep"]
)
def test_a_class_that_not_every_fold_can_have(refused: Run, script: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 17, (40, 65))
    rows[:, 64] = np.arange(40) % 2
    rows[:3, 64] = 7
    np.savetxt(tmp_path / "few.csv", rows, "%d", ",")
    message = refused(script, "--data", "few.csv")
    assert "class 7 has 3 row(s), fewer than the 5" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cross_validate --folds 1", "--folds must be at least 2, not 1"),
        ("cross_validate --folds 2000", "2000 folds need at least 2000 rows, got 1797"),
        (
            "cross_validate --repeats 3000",
            "--folds times --repeats must make at most 10000, not 15000",
        ),
        ("cross_validate --epochs three", "error: --epochs: 'three' is not an integer (--help"),
        ("cross_validate --learning-rate x", "error: --learning-rate: 'x' is not a number (--h"),
        ("train --seeds 1.5", "error: --seeds: '1.5' is not an integer (--help"),
        ("cross_validate --resume", "--resume needs --output-dir"),
        ("cross_validate --epochs 2147483647", "--epochs 2147483647 makes 32212254705 steps"),
        ("train --seeds 10001", "--seeds must make at most 10000, not 10001"),
        ("train --test-size 1", "--test-size must be between 0 and 1 (exclusive), not 1.0"),
        ("train --test-size 0.9999", "test_size=0.9999"),
        ("speedrun --repeats 1", "--repeats must be at least 2"),
        ("speedrun --repeats 3 --peers 4", "--peers must be at most --repeats 3, not 4"),
        ("speedrun --label-smoothing 1", "--label-smoothing must be at least 0 and below 1"),
        ("speedrun --seed 4294967290", "leaves no seeds for 20 repeats"),
        ("feature_maps --index 1797", "--index 1797 is out of range: the rows are 0 to 1796"),
        ("feature_maps --run 0", "--run needs --checkpoint"),
        ("feature_maps --checkpoint none", "no folder of checkpoints at none"),
        ("explore --embedding umap", "invalid choice 'umap' for argument '--embedding'"),
        ("architecture --width 0.01", "--width 0.01 leaves a layer of 16 features with none"),
        ("architecture --width 1e9", "--width must be at most 32, not 1e+09"),
        ("benchmark --peers tinygrad", "--peers"),
        ("benchmark --bits-only", "--bits-only needs --against"),
        ("benchmark --against HEAD --quick", "--against runs no peers: leave out --quick"),
        ("benchmark_networks --rows 600", "--rows must be 640 to a million"),
        ("benchmark_networks --sizes 7", "--sizes"),
        ("ablate --epochs 2147483647", "steps; at most 2147483647 can be counted"),
        ("compare --epochs 2147483647 --methods notebook", "can be counted"),
        ("compare --methods knn1 knn1", "--methods must name each method once"),
        ("leftovers", "none"),
        ("leftovers --share 1.5", "--share must be above 0, to 1, not 1.5"),
        ("sweep --vary batch_size=1 --epochs 2147483647", "can be counted"),
        ("writers", "the writer-disjoint split needs all 5620 rows"),
        ("predict", "nothing to read: give --rows or --images"),
        ("predict --index 3 --images a.png", "--index needs --rows"),
        ("predict --rows bundled --index -1", "--index -1"),
        ("predict --rows bundled", "no folder of checkpoints at none"),
        ("predict --rows bundled --output no/file.csv", "there is no folder no"),
    ],
)
def test_mistakes_of_a_script(refused: Run, line: str, message: str) -> None:
    assert message in refused(*line.split())


@pytest.mark.parametrize("line", ["predict --rows bundled", "feature_maps"])
def test_a_folder_that_never_held_a_checkpoint(refused: Run, line: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "notes").mkdir()
    for folder, named in {"out": "out/checkpoints", "out/notes": "out/notes"}.items():
        message = refused(*line.split(), "--checkpoint", folder)
        assert f"no checkpoint in {named}; give the output folder of train.py or cr" in message


def test_a_batch_may_be_larger_than_the_data(refused: Run) -> None:
    """It is then one of all rows; tests/test_train.py."""
    for script in ("cross_validate", "train"):
        with pytest.raises(Began):
            refused(script, "--batch-size", 2**31 - 1)


def test_a_narrow_terminal_gets_one_line_too(tmp_path: Path) -> None:
    for words, encoding in (
        (["--no-such-flag"], "utf-8"),
        (["--learning-rate", "fast"], "ascii"),
        (["--epochs", "0"], "utf-8"),
    ):
        done = subprocess.run(
            [sys.executable, str(EXPERIMENTS / "cross_validate.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "30", "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert words[0] in done.stderr and "│" not in done.stderr and "--- " not in done.stderr
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "script",
    [  # all by the same function; a script and an example stand for the others
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("train", EXAMPLES[0])))
        for name in (*SCRIPTS, *EXAMPLES)
    ],
)
def test_help_may_be_cut_short(script: str) -> None:
    """As by ``| head``, whose end of the pipe is closed here from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(EXPERIMENTS / f"{script}.py"), "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.parametrize("script", EXAMPLES)
def test_help_of_an_example_is_its_docstring(script: str) -> None:
    file = EXPERIMENTS / f"{script}.py"
    done = subprocess.run([sys.executable, str(file), "--help"], capture_output=True, text=True)
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring is not None and docstring.split("\n\n")[0] in done.stdout
    assert " ".join(docstring.split("\n\n")[-1].split()) in done.stdout  # no line ends early
    assert "Passes over the training rows." in done.stdout


def test_help_is_wrapped_where_the_line_is_full() -> None:
    """And not where the source's lines end; commands keep lines of their own."""
    command = [sys.executable, str(EXPERIMENTS / "train.py"), "--help"]
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line.strip(" │") for line in done.stdout.splitlines()]
    assert {"python experiments/train.py", "python experiments/train.py --seeds 10"} <= set(lines)
    assert "uci, bundled, the path of a CSV in UCI's layout, or an" in lines
    assert any("and an --output-dir" in line for line in lines)  # of the nested Job


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("columns", [60, 80])
def test_help_fits_the_terminal_in_groups_with_an_example(
    script: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    module = importlib.import_module(script)
    help_of = importlib.import_module("common.help")
    text = help_of.text(module.Config, module.__doc__)
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns
    description = re.split(r"^.{0,4}options ", text, maxsplit=1, flags=re.MULTILINE)[0]
    assert len(description.split("\n\n")) <= 3, "a paragraph and commands: no wall of text"
    command = description.replace("\\\n", " ").split("python experiments/")[1]
    assert command.startswith(f"{script}.py")
    words = " ".join(re.sub("[│|]", " ", text).split())
    flags = {"--" + field.name.replace("_", "-") for field in dataclasses.fields(module.Config)}
    flags -= {"--job"} | {"compare_runs": {"--runs"}, "index": {"--folder"}}.get(script, set())
    assert flags <= set(words.replace(",", " ").split())
    assert "{None}" not in text and "default: False" not in text
    assert script in ("predict", "benchmark_networks") or "output options" in text


def test_help_groups_the_options_of_training() -> None:
    command = [sys.executable, str(EXPERIMENTS / "cross_validate.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    boxes = re.findall(r"╭─ ([\w-]+) options ─+╮\n(.*?)╰", text, flags=re.DOTALL)
    groups = {name: re.findall(r"^│ (--[\w-]+)", box, flags=re.MULTILINE) for name, box in boxes}
    assert list(groups) == ["data", "recipe", "training", "output", "multi-process"]
    assert groups["data"] == ["--data", "--folds", "--repeats", "--stratified", "--validation"]
    assert "--learning-rate" in groups["recipe"] and "--patience" in groups["training"]
    assert {"--output-dir", "--resume", "--open"} <= set(groups["output"])
    assert "--distributed" in groups["multi-process"]


def test_the_tests_know_the_scripts() -> None:
    known = "ablate architecture benchmark compare cross_validate explore feature_maps leftovers "
    assert set((known + "predict speedrun sweep train writers").split()) <= set(SCRIPTS)
    assert len(_numbers("cross_validate")) > 40


def test_help_says_no_default_that_is_nothing_and_joins_inherited_options() -> None:
    command = [sys.executable, str(EXPERIMENTS / "compare.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = " ".join(text.replace("│", " ").split())
    assert "default: None" not in options and "(default: 10)" in options
    assert "uci, bundled, the path of a CSV in UCI's layout, or an .npz" in options  # inherited
