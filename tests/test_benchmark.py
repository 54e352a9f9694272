"""The benchmark: its arithmetic, and each peer's program on a few rows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.output import Output
from common.parts import Parts
from digits_jax import DigitsCNN, layer_table, load_digits

pytestmark = pytest.mark.slow  # programs that are timed

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ROWS = 300  # of 5 folds, 240 train in each: one full batch and one of 112
PEERS = (
    "keras-tensorflow keras-jax keras-torch torch-eager torch-processes torch-compile torch-func"
).split()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        return importlib.import_module("benchmark")


@pytest.fixture(scope="module")
def finished(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of one run of Flax and of all peers that are installed."""
    folder = tmp_path_factory.mktemp("benchmark")
    digits = load_digits("bundled")
    rows = zip(digits.images[:ROWS].reshape(ROWS, 64), digits.labels[:ROWS], strict=True)
    data = "\n".join(",".join(map(str, [*image, label])) for image, label in rows)
    (folder / "few.csv").write_text(data)
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), "--data", "few.csv"]
    command += ["--rounds", "1", "--epochs", "2", "--output-dir", "out", "--peers"]
    command += [
        "flax-conv-vmapped",
        *(name for name in ("sklearn", "realmlp", *PEERS) if not _missing(script, name)),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", done.stdout


def _missing(script: ModuleType, name: str) -> list[str]:
    return [m for m in script.PEERS[name].needs if importlib.util.find_spec(m) is None]


def test_it_reports_what_it_says(finished: tuple[Path, str]) -> None:
    folder, shown = finished
    written = {path.name for path in folder.iterdir() if path.name[0] != "."}
    assert written == {
        "benchmark.json",
        "benchmark.png",
        "options.json",
        "parts",
        "report.html",
    }
    report = json.loads((folder / "benchmark.json").read_text())
    assert report["peers"]["digits-jax"]["ratio"] == [1, 1, 1]
    assert report["rows"] == ROWS and report["fold_rows"] == 4 * ROWS
    assert report["data"]["rows"] == ROWS and report["left_out"] == {}
    seconds = report["flop_per_epoch"] / report["flop_per_second"][0]
    assert report["floor_seconds"][0] == pytest.approx(seconds)
    assert "Flax nn.Conv, vmapped" in shown and "floor:" in shown


@pytest.mark.parametrize("name", ["digits-jax", "flax-conv-vmapped", *PEERS])
def test_a_peer_trains_the_same_network(
    script: ModuleType, finished: tuple[Path, str], name: str
) -> None:
    if missing := _missing(script, name):
        pytest.skip(f"not installed: {', '.join(missing)}; pip install '.[peers]'")
    report = json.loads((finished[0] / "benchmark.json").read_text())
    peer = report["peers"][name]
    assert peer["parameters"] == sum(layer.parameters for layer in layer_table(DigitsCNN()))
    assert 0 < peer["train_accuracy"][0] < 0.6  # four epochs of two steps
    assert len(report["rounds"][0][name]["epoch_seconds"]) == 2
    assert 0 < peer["epoch_seconds"][0] < peer["first_epoch_seconds"][0]
    assert peer["import_seconds"][0] > 0
    assert peer["peak_bytes"] is None or peer["peak_bytes"] > 50e6


def test_a_dense_network_stands_for_scale(finished: tuple[Path, str]) -> None:
    report = json.loads((finished[0] / "benchmark.json").read_text())
    dense = report["peers"]["sklearn"]
    assert dense["parameters"] == 64 * 128 + 128 + 128 * 512 + 512 + 512 * 10 + 10
    assert dense["epoch_seconds"][0] > 0 and dense["title"] in finished[1]


def test_real_mlp_stands_for_scale(script: ModuleType, finished: tuple[Path, str]) -> None:
    if missing := _missing(script, "realmlp"):
        pytest.skip(f"not installed: {', '.join(missing)}; pip install '.[peers]'")
    report = json.loads((finished[0] / "benchmark.json").read_text())
    peer = report["peers"]["realmlp"]
    assert 0 < peer["epoch_seconds"][0] < peer["first_epoch_seconds"][0]
    assert peer["train_accuracy"][0] > 0.5


def test_a_peer_that_is_not_installed_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peers, left_out = script.choose_peers(script.Config(peers=("torch-func", "flax-conv")))
    assert peers == ["digits-jax", "flax-conv"]
    assert left_out == {"torch-func": "not installed: torch"}


def test_a_peer_that_fails_is_left_out(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_program(peer: Any, task: Path, timeout: float) -> dict[str, Any]:
        if peer.title == "PyTorch, eager":
            raise RuntimeError("no [memory]")
        if not peer.variant:
            return {"flop_per_second": 1e9}
        return {"epoch_seconds": [1.0], "parameters": 7, "steps": 3}

    monkeypatch.setattr("programs.run_program", run_program)
    config = script.Config(rounds=2, output_dir=tmp_path)
    parts = Parts(Output(config, script="benchmark"), {})
    rounds, failed = script.run_rounds(config, ["digits-jax", "torch-eager"], tmp_path, parts)
    assert failed == {"torch-eager": "failed: no [memory]"}
    assert [set(results) for results in rounds] == [{"matmul", "digits-jax", "matmul after"}] * 2

    def run_nothing(*_: Any) -> None:
        pytest.fail("a round that is kept is run again")

    monkeypatch.setattr("programs.run_program", run_nothing)  # what --resume does
    again = script.run_rounds(config, ["digits-jax", "torch-eager"], tmp_path, parts)
    assert again == (rounds, failed)


def test_a_broken_program_says_why(script: ModuleType, tmp_path: Path) -> None:
    task = tmp_path / "task.npz"
    with pytest.raises(RuntimeError, match="FileNotFoundError.*task.npz"):
        importlib.import_module("programs").run_program(script.PEERS["flax-conv"], task, 100.0)


def test_arithmetic_of_an_image(script: ModuleType) -> None:
    assert script.flop_per_image() == 3 * 471_040
    weights = sum(9 * c * f + f for _, c, f in script.CONVOLUTIONS)
    weights += sum(c * f + f for c, f in script.DENSE_LAYERS)
    assert weights == sum(layer.parameters for layer in layer_table(DigitsCNN()))


def test_ratios_are_taken_within_a_round(script: ModuleType) -> None:
    def result(*seconds: float) -> dict[str, Any]:
        return {
            "epoch_seconds": list(seconds),
            "first_epoch_seconds": 9.0,
            "import_seconds": 1.0,
            "peak_bytes": None,
            "train_accuracy": 0.5,
            "parameters": 7,
            "others_share": 0.0,
        }

    rounds = [  # the second round of a machine that is twice as slow, the third three times
        {
            "matmul": {"flop_per_second": 12.5 / slow, "others_share": share},
            "matmul after": {"flop_per_second": 11.5 / slow, "others_share": 0.0},
            "digits-jax": result(2.0 * slow, 1.0 * slow, 3.0 * slow),  # mean 2
            "torch-eager": result(8.0 * slow),
        }
        for slow, share in ((1, 0.0), (2, 0.06), (3, 0.0))
    ]
    rounds[2]["matmul"]["flop_per_second"] += 0.2
    rounds[2]["matmul after"]["flop_per_second"] -= 0.2
    summary = script.summarize(rounds, 6.0)
    assert summary["floor_seconds"] == pytest.approx([1.0, 0.5, 1.5])
    assert summary["others_share"] == [0.0, 0.0, 0.06]
    assert summary["disturbed"] == [2, 3]  # other programs; a rate that drifts
    own, eager = summary["peers"]["digits-jax"], summary["peers"]["torch-eager"]
    assert own["epoch_seconds"] == [4.0, 2.0, 6.0] and own["ratio"] == [1.0, 1.0, 1.0]
    assert eager["epoch_seconds"] == [16.0, 8.0, 24.0] and eager["ratio"] == [4.0, 4.0, 4.0]
    assert own["share_of_floor"] == pytest.approx([0.25] * 3)


def test_help_imports_no_framework() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(EXPERIMENTS)!r})
sys.argv = ["benchmark.py", "--help"]
import benchmark
from common import command_line
try:
    command_line.run(benchmark.Config, benchmark.main, benchmark.__doc__)
finally:
    print(sorted({{"jax", "torch", "sklearn", "matplotlib"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--rounds" in done.stdout and done.stdout.endswith("[]\n"), done.stdout
