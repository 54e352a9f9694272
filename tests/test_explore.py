"""The script explore.py, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import sklearn.datasets
from sklearn.neighbors import KNeighborsClassifier

from digits_jax.layouts import Rows
from digits_jax.uci import UciTable, write_cache

pytestmark = pytest.mark.slow  # t-SNE of all rows

SCRIPT = Path(__file__).parents[1] / "experiments" / "explore.py"
FIGURES = ("class_means", "embedding", "pixel_statistics", "samples")


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The bundled images [N, 64] and labels [N], not by way of digits_jax."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    return pixels, labels


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("explored")
    done = _run(folder, "--data", "bundled", "--seed", "3", "--output-dir", "out", "--svg")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "out", done.stdout


def test_it_prints_what_the_data_are(explored: tuple[Path, str]) -> None:
    text = explored[1]
    assert "bundled: the 1797 rows that come with scikit-learn" in text
    assert "no UCI metadata or variables" in text
    assert "images (1797, 8, 8) uint8, labels (1797,) int32" in text
    assert "training (1437, 8, 8), test (360, 8, 8)" in text
    assert "pixels 0 to 16 (ink counts), mean 4.884" in text
    assert "3 of 64 never have ink" in text


def test_results_are_those_of_the_data(
    explored: tuple[Path, str], digits: tuple[np.ndarray, np.ndarray]
) -> None:
    results = json.loads((explored[0] / "results.json").read_text())
    pixels, labels = digits
    assert results["data"]["rows"] == 1797 and results["config"]["seed"] == 3
    assert results["metadata"] is None and results["variables"] is None
    assert results["shapes"]["images"] == [1797, 8, 8]
    assert results["rows_per_class"] == {str(k): int((labels == k).sum()) for k in range(10)}
    statistics = results["pixels"]
    assert (statistics["min"], statistics["max"]) == (0, 16)
    np.testing.assert_allclose(np.ravel(statistics["mean"]), pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.ravel(statistics["variance"]), pixels.var(0), rtol=1e-12)
    assert labels[results["samples"]].tolist() == list(range(10))


def test_the_embedding_keeps_the_classes_apart(
    explored: tuple[Path, str], digits: tuple[np.ndarray, np.ndarray]
) -> None:
    written = np.load(explored[0] / "embedding.npz")
    assert written["points"].shape == (1797, 2)
    np.testing.assert_array_equal(written["labels"], digits[1])
    neighbours = KNeighborsClassifier(5).fit(written["points"][::2], written["labels"][::2])
    score = neighbours.score(written["points"][1::2], written["labels"][1::2])
    assert score > 0.95  # measured: 0.979; by chance 0.1


def test_figures_are_written_and_not_blank(explored: tuple[Path, str]) -> None:
    folder = explored[0]
    names = {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    others = {"embedding.npz", "report.html", "results.json"}
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == names | others
    for name in FIGURES:
        assert matplotlib.image.imread(folder / f"{name}.png").std() > 0.02, name
        assert "</svg>" in (folder / f"{name}.svg").read_text()


def test_uci_metadata_are_shown_and_samples_follow_the_seed(
    explored: tuple[Path, str], digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    metadata = {
        "name": "Optical Recognition [bold]of Handwritten Digits",
        "creators": ["E. Alpaydin", "C. Kaynak"],
        "index_col": None,
        "additional_info": {"summary": "Preprinted form.\r\n\r\nNIST", "purpose": None},
    }
    variables = [{"name": f"Attribute{i}", "role": "Feature"} for i in range(1, 65)]
    pixels, classes = digits
    rows = Rows(pixels.astype(np.uint8), classes.astype(np.int32))
    cache = tmp_path / "cache" / "digits_jax" / "optdigits.npz"
    write_cache(cache, UciTable(rows, metadata, variables))
    arguments = ("--data", "uci", "--embedding", "pca", "--output-dir", "out")
    done = _run(tmp_path, *arguments, "--seed", "3", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    for text in (
        "Optical Recognition [bold]of Handwritten Digits",
        "E. Alpaydin, C. Kaynak",
        "additional_info.summary",
        "UCI variables, 64 rows",
        "Attribute5 ",
        "Attribute60 ",
        "PCA, 28.5 % of the variance",
    ):
        assert text in done.stdout
    assert "Attribute6 " not in done.stdout and "index_col" not in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["metadata"], results["variables"]) == (metadata, variables)
    before = json.loads((explored[0] / "results.json").read_text())
    assert results["samples"] == before["samples"]


def test_a_users_mistake_gets_one_line(explored: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text(("0," * 64 + "1\n") * 9)
    for arguments, message in (
        (["--seed", "-1"], "--seed must be in 0 to 2^32 - 1, not -1"),
        (["--data", "few.csv"], "--data has 1 distinct images; 4 are the least to map"),
        (["--output-dir", str(explored[0])], "holds a run already"),
    ):
        done = _run(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["few.csv"]


def test_help_imports_no_jax() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--embedding" in done.stdout and "t-SNE" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported and not imported & {"jax", "sklearn", "matplotlib"}
