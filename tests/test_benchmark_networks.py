"""benchmark_networks.py: its arithmetic, equal networks in each framework, and a small run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
NETWORKS = "lenet vgg resnet separable unet wavenet".split()
SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]


def _load(name: str, folder: Path = EXPERIMENTS) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return _load("benchmark_networks")


@pytest.fixture(scope="module")
def flax() -> ModuleType:
    return _load("own_networks_flax", EXPERIMENTS / "peers")


def _parameters(network: Any, shape: tuple[int, ...]) -> int:
    def init(key: jax.Array) -> Any:
        return network.init(key, jax.numpy.zeros((1, *shape)), train=False)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_arithmetic_and_parameters_of_known_layers(flax: ModuleType) -> None:
    lenet = [(8 * 8, 25 * 1, 6), (4 * 4, 25 * 6, 16), (1, 2 * 2 * 16, 120), (1, 120, 84)]
    lenet.append((1, 84, 10))
    network = flax.NETWORKS["lenet"]()
    assert flax.forward_flop(network, (8, 8, 1)) == sum(2 * n * c * f for n, c, f in lenet)
    assert _parameters(network, (8, 8, 1)) == sum(c * f + f for _, c, f in lenet)
    # Depthwise: a tap sees one channel; transposed with strides: a pixel of the output one tap.
    separable = 2 * (64 * 9 * 16 + 16 * (9 * 16 + 16 * 32) + 4 * (9 * 32 + 32 * 64))
    separable += 2 * (4 * (9 * 64 + 64 * 64) + 64 * 10)
    assert flax.forward_flop(flax.NETWORKS["separable"](), (8, 8, 1)) == separable
    unet = 2 * (64 * 9 * 16 + 16 * 9 * 16 * 32 + 4 * 9 * 32 * 64)
    unet += 2 * (16 * 64 * 32 + 16 * 9 * 64 * 32 + 64 * 32 * 16 + 64 * 9 * 32 * 16 + 64 * 160)
    assert flax.forward_flop(flax.NETWORKS["unet"](), (8, 8, 1)) == unet


@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_has_the_same_network(flax: ModuleType, name: str) -> None:
    torch = pytest.importorskip("torch", reason="pip install '.[peers]'")
    from torch.utils.flop_counter import FlopCounterMode

    peer = _load("own_networks_torch", EXPERIMENTS / "peers")
    for height, width, channels in SHAPES:
        network = flax.NETWORKS[name]()
        twin = peer.NETWORKS[name](height, channels)
        assert sum(parameter.numel() for parameter in twin.parameters()) == _parameters(
            network, (height, width, channels)
        )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            twin.eval()(torch.zeros(1, channels, height, width))
        flop = flax.forward_flop(network, (height, width, channels))
        assert counter.get_total_flops() == flop


def _result(*seconds: float, **more: float) -> dict[str, Any]:
    return {
        "epoch_seconds": list(seconds),
        "first_epoch_seconds": 9.0,
        "import_seconds": 1.0,
        "peak_bytes": None,
        "train_accuracy": 0.5,
        "parameters": 7,
        "steps": 62,
        "others_share": 0.0,
        **more,
    }


def test_ratios_are_taken_within_a_round(script: ModuleType) -> None:
    case = script.Case(network="lenet", size=8, rows=5000, runs=5)
    assert case.train_rows == 31 * 128 and case.shape == (8, 8, 1)
    rounds = [  # of a machine that gets twice, and three times as slow
        {
            "matmul": {"flop_per_second": 12.0 / slow, "others_share": 0.1 * slow},
            "digits-jax": _result(1.0 * slow, 3.0 * slow, compile_seconds=4.0),
            "torch": _result(8.0 * slow),
        }
        for slow in (1, 2, 3)
    ]
    summary = script.summarize(case, 6, rounds)
    own, other = summary["programs"]["digits-jax"], summary["programs"]["torch"]
    assert own["epoch_seconds"] == [4, 2, 6] and own["ratio"] == [1, 1, 1]
    assert other["epoch_seconds"] == [16, 8, 24] and other["ratio"] == [4, 4, 4]
    assert own["share_of_rate"] == pytest.approx([0.25] * 3)
    assert own["compile_seconds"] == [4, 4, 4] and other["compile_seconds"][0] == 9 - 16
    assert summary["steps"] == 31 and summary["others_share"] == pytest.approx([0, 0, 0.3])
    total = script.overall([summary, summary | {"programs": {"torch": {"ratio": [2.0, 1, 3]}}}])
    assert total["torch"]["ratio"] == [3, 2, 4] and total["torch"]["cases"] == 2


@pytest.mark.parametrize("quantity", ["parameters", "steps"])
def test_unequal_work_is_not_reported(script: ModuleType, quantity: str) -> None:
    programs = importlib.import_module("programs")
    own, other = _result(1.0), _result(1.0)
    programs.check_equal_work("flax", own, other)
    other[quantity] += 1
    with pytest.raises(SystemExit, match=f"flax does other work.*{quantity}"):
        programs.check_equal_work("flax", own, other)


def test_the_task_has_full_batches_and_disjoint_folds(script: ModuleType, tmp_path: Path) -> None:
    case = script.Case(network="wavenet", size=32, rows=700, runs=5)
    config = script.Config(epochs=2)
    with np.load(script.write_task(config, case, tmp_path), allow_pickle=False) as file:
        task = dict(file)
    assert task["images"].shape == (700, 32, 32, 3)
    assert task["train_rows"].shape == (5, 512) and task["test_rows"].shape == (5, 140)
    for train, test in zip(task["train_rows"], task["test_rows"], strict=True):
        assert len(set(train)) == 512 and not set(train) & set(test)
    assert sorted(task["test_rows"].ravel()) == list(range(700))
    timed = task["epochs"] - task["warm_up"]
    assert timed % 2 == 0 and 2 <= timed <= task["warm_up"]  # short epochs


def test_what_is_missing_or_fails_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_program(peer: Any, task: Path, timeout: float) -> dict[str, Any]:
        if peer.program == "matmul_rate.py":
            return {"flop_per_second": 1e9, "others_share": None}
        assert peer.variant.startswith("lenet")
        ran.append(peer.title)
        if peer.title == "Flax, scan" and len(ran) > 3:
            raise RuntimeError("no [memory]")
        return _result(1.0)

    ran: list[str] = []
    monkeypatch.setattr("programs.run_program", run_program)
    case = script.Case(network="lenet", size=8, rows=700, runs=1)
    measured, failed, ended = script.run_rounds(
        script.Config(rounds=3), ["digits-jax", "flax", "flax-scan"], [case]
    )
    assert failed == {case: {"flax-scan": "failed: no [memory]"}} and not ended
    assert [set(results) for results in measured[case]] == [{"matmul", "digits-jax", "flax"}] * 3
    assert ran[:5] == [
        *("digits_jax", "Flax, jitted step", "Flax, scan"),
        *("Flax, jitted step", "Flax, scan"),
    ]  # the next round begins with another
    short = script.Config(rounds=3, max_seconds=1e-9)
    assert script.run_rounds(short, ["digits-jax"], [case]) == ({}, {case: {}}, True)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    peers, left_out = script.installed(script.Config().peers, script.PEERS)
    assert peers == ["digits-jax", "flax", "flax-scan"]
    assert left_out["torch"] == "not installed: torch"


@pytest.mark.slow  # programs that are timed
def test_a_small_run(tmp_path: Path) -> None:
    command = [sys.executable, str(EXPERIMENTS / "benchmark_networks.py"), "--networks", "lenet"]
    command += ["--sizes", "8", "--rows", "700", "--runs", "1", "--rounds", "1", "--epochs", "1"]
    done = subprocess.run(
        [*command, "--output-dir", "out"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {
        *("results.json", "report.html", "networks.png"),
    }
    results = json.loads((folder / "results.json").read_text())
    (case,) = results["cases"]
    assert case["steps"] == 4 and case["parameters"] == 21386 and case["rounds"] == 1
    assert case["flop_per_epoch"] == 3 * 133_200 * 512
    absent = {name.lower().split()[0] for name in results["left_out"]}
    assert set(case["programs"]) == {"digits-jax", "flax", "flax-scan"} | (
        {"torch", "keras"} - {name.replace("py", "") for name in absent}
    )
    own = case["programs"]["digits-jax"]
    assert own["ratio"] == [1, 1, 1] and own["compile_seconds"][0] > 0
    assert own["share_of_rate"][0] == pytest.approx(
        case["flop_per_epoch"] / own["epoch_seconds"][0] / case["flop_per_second"][0]
    )
    assert "Flax, jitted step" in done.stdout and "of rate" in done.stdout
