"""scaling.py: the fit finds known costs, the prediction is its arithmetic, a point is measured."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import costs
import measuring
from digits_jax.data import load_digits
from report import growth

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def scaling() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        yield importlib.import_module("scaling")


def _point(runs: int, *, rows: int = 1000, steps: int = 7, **more: Any) -> dict[str, Any]:
    """A point whose costs are 0.01 s + 0.002 s * steps * runs a device, 1 kB + 3 kB a run."""
    epoch = 0.01 + 0.002 * steps * (2.5 if runs == 5 else -(-runs // 2))  # five take turns
    return {
        **{"runs": runs, "rows": rows, "width": 1.0, "wave_size": None, "epochs": 4},
        **{"devices": 2, "platform": "cpu", "steps": steps},
        "seconds": {"compile": 5.0, "epoch": [0.5 * epoch, 1.5 * epoch]},
        "bytes": {"checkpoint": 1000 + 3000 * runs, "peak": 10**8 + 10**6 * runs},
        **more,
    }


def test_the_fit_finds_the_costs_that_made_the_points() -> None:
    points = [_point(runs) for runs in (1, 2, 5, 50)] + [_point(10, rows=300, steps=2)]
    model = costs.fit(points)
    assert model["call_seconds"] == pytest.approx(0.01)
    assert model["step_seconds"] == pytest.approx(0.002)
    assert model["checkpoint_bytes_a_run"] == pytest.approx(3000)
    assert model["memory_bytes"] == pytest.approx(10**8)
    assert model["start_seconds"] == 5
    for unseen in (_point(20), _point(60, wave_size=20) | {"seconds": {"epoch": [0.15]}}):
        assert costs.check(model, unseen)["ratio"] == pytest.approx(1)


def test_a_model_that_is_off_by_more_than_a_quarter_says_so() -> None:
    model = costs.fit([_point(runs) for runs in (1, 2, 5, 50)])
    near = costs.check(model, _point(20))
    assert costs.far_off([near, near | {"ratio": 1.2}, near | {"ratio": 0.81}]) == ""
    slow = _point(20, seconds={"epoch": [0.15 / 0.38]})
    far = costs.check(model, slow)
    assert costs.far_off([near, far]).startswith(
        "the model differs from what was measured by more than a quarter (0.38 for 20 runs), so"
    )
    assert "(1.30 for 20 runs)" in costs.far_off([near | {"ratio": 1.3}])


def test_a_million_runs_are_their_waves() -> None:
    model = costs.fit([_point(runs) for runs in (1, 2, 5, 50)])
    wave = _point(40, wave_size=20) | {"bytes": {"results": 40 * 500}}
    one, eight = (costs.predict(model, devices, 7, wave, 900.0) for devices in (1, 8))
    epoch = 0.01 + 0.002 * 7 * 10  # ten of a wave's runs on each of two devices
    assert one["waves"] == 100_000
    assert one["seconds"] == pytest.approx(5 + 100_000 * 100 * epoch)
    assert (one["seconds"] - 5) / (eight["seconds"] - 5) == pytest.approx(8)
    assert one["logits_bytes"] == 900_000_000
    assert one["memory_bytes_of_a_wave"] == pytest.approx(10**8 + 10 * 10**6)
    assert one["results_bytes"] == pytest.approx(1_000_000 * (500 + 8 * 96))


@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    point = measuring.measure_alone(costs.Trial(runs=2, rows=200, width=0.5), "bundled", 2)
    assert len(point["seconds"]["epoch"]) == 2 and min(point["seconds"]["epoch"]) > 0
    assert point["steps"] == 2  # 160 rows in batches of 128
    assert point["bytes"]["checkpoint"] > 2 * 4 * 20_000  # more than the weights of two
    assert point["bytes"]["peak"] > 0
    trial = costs.Trial(runs=6, rows=200, width=0.5, wave_size=2)
    waves = measuring.measure_alone(trial, "bundled", 2)
    assert len(waves["seconds"]["epoch"]) == 2  # of three waves; the first compiles
    assert waves["bytes"]["results"] > 6 * 4 * 2 * measuring.WAVED_EPOCHS


def test_the_figure_shows_every_point_once(scaling: ModuleType) -> None:
    points = [_point(runs) for runs in (1, 5, 10, 20)] + [_point(10, rows=300, steps=2)]
    points += [_point(10, width=2.0)]
    points += [_point(60, wave_size=20, seconds={"epoch": [0.15, 0.14, 0.16]})]
    config = scaling.Config(runs=(1, 5, 10), held_out=(20,))
    figure = growth.figure(points, costs.fit(points[:3]), config, most=1000)
    time, *_, by_width = figure.axes[:3]
    assert len(time.containers) == 5 and len(by_width.containers) == 2
    assert [text.get_text() for text in time.get_legend().get_texts()] == [
        *("fitted model", "all at once", "held out of the fit", "in waves of 20"),
    ]
    dots = dict(container[0].get_xydata()[0] for container in time.containers)
    assert dots[60] == pytest.approx(7.5) and dots[5] == pytest.approx(45 / 5)  # ms


def test_less_memory_makes_smaller_waves() -> None:
    dataset = load_digits("bundled")
    sizes = [measuring.chosen_wave_size(dataset, free) for free in (1 << 27, 1 << 28, 1 << 40)]
    assert sizes[0] < sizes[1] < sizes[2] == 64 * 8  # rounds, devices


def test_the_report_tells_what_was_measured_and_predicted(
    scaling: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [_point(runs) for runs in (1, 2, 10)] + [_point(10, rows=300, steps=2)]
    points.append(_point(10, width=2.0))
    waved = _point(10, wave_size=5, bytes={"results": 5000, "peak": 12 * 10**7})
    model = costs.fit(points[:4])
    results = {
        "config": {"epochs": 3},
        "points": [*points, waved],
        "model": model,
        "held_out": [costs.check(model, _point(20)), costs.check(model, waved)],
        "predictions": [costs.predict(model, devices, 7, waved, 900.0) for devices in (1, 8)],
        "warning": "",
    }
    figure = growth.figure(results["points"], model, scaling.Config(), 1000)
    page = growth.page(results, figure, 4).html(results)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in page.split("<tr>")]
    of_ten = [line for line in cells if line[:4] == ["10", "1000", "1", "–"]]
    assert of_ten == [["10", "1000", "1", "–", "8.0", "110"]]  # 80 ms by ten runs
    waved_line = [line for line in cells if line[3:4] == ["5"]]
    assert waved_line == [["10", "1000", "1", "5", "16.0", "120"]]  # 80 ms by a wave's five
    assert "Check: 10 runs in waves of 5" in page and "Check: 20 runs" in page
    days, shown = f"{results['predictions'][0]['seconds'] / 86400:.2f}", capsys.readouterr().out
    assert days in page and days in shown and "held out, 10 runs in waves of 5" in shown


def test_a_stopped_run_goes_on_with_the_points_that_it_has(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Points with known costs, in place of those that take minutes; the third is interrupted."""
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    config = scaling.Config(
        data="bundled", runs=(1, 2, 5), rows=(500,), widths=(2.0,), held_out=(20,), waves=(2,),
        wave_size=5, output_dir=tmp_path / "out", resume=True,
    )  # fmt: skip
    measured: list[costs.Trial] = []

    def measure(trial: costs.Trial, data: str, epochs: int) -> dict[str, Any]:
        if len(measured) == 2:
            measured.append(trial)
            raise KeyboardInterrupt
        measured.append(trial)
        more: dict[str, Any] = {"width": trial.width, "wave_size": trial.wave_size}
        point = _point(trial.runs, rows=trial.rows, **more)
        point["bytes"] |= {"logits": 7 * trial.runs, "results": 5 * trial.runs}
        return point

    monkeypatch.setattr(measuring, "measure_alone", measure)
    with pytest.raises(KeyboardInterrupt):
        scaling.main(config)
    assert not (tmp_path / "out" / "results.json").exists()
    scaling.main(config)
    trials = [trial for i, trial in enumerate(measured) if i != 2]  # was measured again
    assert len(trials) == len(set(trials)) == 7
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [point["runs"] for point in results["points"]] == [1, 2, 5, 10, 10, 20, 10]
    assert results["model"]["call_seconds"] == pytest.approx(0.01)


def test_bad_options_are_refused(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line = importlib.import_module("common.command_line")
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--runs", "3"])
    with pytest.raises(SystemExit) as stop:
        command_line.run(scaling.Config, scaling.main, scaling.__doc__)
    assert stop.value.code == 2
    assert "two numbers, to fit a line" in capsys.readouterr().err
