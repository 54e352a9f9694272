"""Waves give the results of one program, whatever kills them, with one wave in memory."""

from __future__ import annotations

import functools
import gc
import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from digits_jax import wave_files, waves
from digits_jax.data import load_digits
from digits_jax.model import DigitsCNN
from digits_jax.optimizers import Hyperparameters
from digits_jax.parallel import processes
from digits_jax.recipe import Recipe
from digits_jax.runs import identity, programs
from digits_jax.runs.axis import make_runs, take_runs
from digits_jax.runs.cross_validation import cross_validate
from digits_jax.runs.results import CrossValidation, Progress
from digits_jax.splits import kfold_splits
from digits_jax.storage import files
from digits_jax.storage.errors import CheckpointError
from digits_jax.storage.locks import FolderInUse, FolderLock
from digits_jax.structures import Run
from digits_jax.wave_files import WavesInterrupted, by_first, in_waves
from digits_jax.waves import WaveResults, read_waves, train_in_waves

RECIPE = Recipe(network=DigitsCNN(conv_features=(2,), dense_features=()), batch_size=32)
COUNT = 10
Arrays = tuple[np.ndarray, np.ndarray]  # images [N, 8, 8] and labels [N]


@pytest.fixture(scope="module")
def data() -> Arrays:
    digits = load_digits("bundled")
    return digits.images[:199], digits.labels[:199]


@pytest.fixture(scope="module")
def runs(data: Arrays) -> Run:
    rates = Hyperparameters(learning_rate=np.geomspace(1e-4, 1e-1, COUNT))
    return make_runs(kfold_splits(data[1], 5, repeats=2), rates, seed=3)


def _wave(runs: Run, start: int, stop: int) -> Run:
    return take_runs(runs, np.arange(start, stop))  # type: ignore[no-any-return]


def _train(data: Arrays, runs: Run, folder: Path, **options: Any) -> WaveResults:
    options = {
        "recipe": RECIPE,
        "epochs": 2,
        "wave_size": 4,
        "devices": jax.devices()[:2],
        **options,
    }
    make_wave = options.pop("make_wave", functools.partial(_wave, runs))
    count = options.pop("count", COUNT)
    return train_in_waves(data, make_wave, count, folder=folder, **options)


@pytest.fixture(scope="module")
def together(data: Arrays, runs: Run) -> CrossValidation:
    """All runs in one program."""
    return cross_validate(data, runs, recipe=RECIPE, epochs=2, devices=jax.devices()[:2])


@pytest.fixture(scope="module")
def uninterrupted(data: Arrays, runs: Run, tmp_path_factory: pytest.TempPathFactory) -> WaveResults:
    return _train(data, runs, tmp_path_factory.mktemp("waves"))


def _assert_equal(got: WaveResults, expected: WaveResults) -> None:
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_waves_equal_one_program(
    data: Arrays, runs: Run, together: CrossValidation, tmp_path: Path
) -> None:
    result = _train(data, runs, tmp_path, keep_outputs=True)
    np.testing.assert_array_equal(result.runs, np.arange(COUNT))
    assert result.scores.keys() == result.history.keys() == {"loss", "accuracy"}
    np.testing.assert_allclose(result.scores["loss"], together.scores["loss"], rtol=1e-4)
    np.testing.assert_array_equal(result.scores["accuracy"], together.scores["accuracy"])
    np.testing.assert_allclose(result.history["loss"], together.history["loss"], rtol=1e-4)
    assert result.outputs is None and result.test_rows is None
    kept = read_waves(tmp_path, outputs=True)
    assert kept.outputs is not None
    np.testing.assert_array_equal(kept.test_rows, together.test_rows)
    np.testing.assert_allclose(kept.outputs, together.outputs, rtol=1e-3, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix) == [
        "wave-00000000.npz",
        "wave-00000004.npz",
        "wave-00000008.npz",
    ]


def test_outputs_are_not_kept_unasked(data: Arrays, runs: Run, tmp_path: Path) -> None:
    _train(data, runs, tmp_path)
    with pytest.raises(ValueError, match="were saved without outputs"):
        read_waves(tmp_path, outputs=True)


def test_waves_share_one_compilation_and_keep_nothing(
    data: Arrays, runs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def count(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    after: list[int] = []
    alive: list[int] = []

    def on_wave(done: int) -> None:
        after.append(len(compiled))
        gc.collect()
        alive.append(sum(array.nbytes for array in jax.live_arrays()))

    recipe = Recipe(network=RECIPE.network, batch_size=48)  # none has compiled it yet
    lifted: list[Any] = []
    lift = programs.lifted_programs
    monkeypatch.setattr(
        programs, "lifted_programs", lambda **how: lifted.append(how) or lift(**how)
    )
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        _train(
            data,
            runs,
            tmp_path,
            recipe=recipe,
            wave_size=3,
            on_wave=on_wave,
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(lifted) == 1, "traced once for four waves, the last of which has one run"
    assert after[0] < after[1] == after[2] == after[3], "nothing else is compiled either"
    # Some bytes of other tests may come and go; the states of one run are 4 kB.
    assert max(alive[2:]) < alive[1] + 1000, "bytes on the devices after each wave"


class _Kill(BaseException):
    """Nobody catches it: the process is gone."""


@pytest.mark.parametrize("moment", ["first wave", "epoch", "before rename", "after rename"])
def test_a_killed_job_resumes_to_the_same_bits(
    data: Arrays,
    runs: Run,
    uninterrupted: WaveResults,
    tmp_path: Path,
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[int] = []
    saves = 0

    def make_wave(start: int, stop: int) -> Run:
        trained.append(start)
        return _wave(runs, start, stop)

    def kill(*_: Any) -> None:
        raise _Kill

    def replace(source: Path, target: Path, replace: Any = files.os.replace) -> None:
        nonlocal saves
        saves += 1
        if saves == 2 and moment == "before rename":
            raise _Kill
        replace(source, target)
        if saves == 2 and moment == "after rename":
            raise _Kill

    options: dict[str, Any] = {}
    if moment == "first wave":
        options["on_epoch"] = kill
    if moment == "epoch":
        options["on_epoch"] = lambda p: kill() if (saves, p.epoch) == (1, 1) else None
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace)
        with pytest.raises(_Kill):
            _train(data, runs, tmp_path, **options)

    finished = {"first wave": 0, "after rename": 2}.get(moment, 1)
    assert len([*tmp_path.glob("wave-*.npz")]) == finished
    told: list[int] = []
    epochs: list[int] = []
    resumed = _train(
        data,
        runs,
        tmp_path,
        resume=True,
        wave_size=None if finished else 4,
        on_wave=told.append,
        on_epoch=lambda p: epochs.append(p.epoch),
    )
    _assert_equal(resumed, uninterrupted)
    assert told == [0, 4, 8, 10][finished:]
    assert len(epochs) == 2 * (3 - finished), "no run is done twice"
    assert {path.name[:5] for path in tmp_path.iterdir() if path.name[0] != "."} == {"wave-"}
    _assert_equal(_train(data, runs, tmp_path, resume=True), uninterrupted)


def test_a_callback_stops_between_waves_and_within_one(
    data: Arrays, runs: Run, uninterrupted: WaveResults, tmp_path: Path
) -> None:
    with pytest.raises(WavesInterrupted, match="stopped after 4 of 10 runs"):
        _train(data, runs, tmp_path, on_wave=lambda done: done == 4)
    expected = uninterrupted.scores["loss"][:4]
    np.testing.assert_array_equal(read_waves(tmp_path).scores["loss"], expected)
    seen: list[tuple[int, ...]] = []

    def last_wave(progress: Progress) -> bool:
        seen.append(progress.history["loss"].shape)
        return seen[-1] == (2, 1)

    with pytest.raises(WavesInterrupted, match="stopped after 8 of 10 runs"):
        _train(
            data,
            runs,
            tmp_path,
            resume=True,
            on_epoch=last_wave,
        )
    assert seen == [(4, 1), (4, 2), (2, 1)], "runs that fill up the last wave are not shown"
    _assert_equal(_train(data, runs, tmp_path, resume=True), uninterrupted)


def test_a_damaged_wave_is_named_and_done_again(
    data: Arrays,
    runs: Run,
    uninterrupted: WaveResults,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _train(data, runs, tmp_path)
    path = tmp_path / "wave-00000004.npz"
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"wave-00000004\.npz is damaged"):
        read_waves(tmp_path)
    told: list[int] = []
    with caplog.at_level(logging.WARNING, "digits_jax"):
        again = _train(data, runs, tmp_path, resume=True, on_wave=told.append)
    assert "wave-00000004.npz is damaged" in caplog.text
    assert told == [6, 10]
    _assert_equal(again, uninterrupted)


def test_other_waves_are_refused_by_name(data: Arrays, runs: Run, tmp_path: Path) -> None:
    _train(data, runs, tmp_path, identity={"seed": 3})
    with pytest.raises(CheckpointError, match="holds waves already; give resume=True"):
        _train(data, runs, tmp_path)
    rates = runs.hyperparameters._replace(learning_rate=np.ones(COUNT, np.float32))
    faster = runs._replace(hyperparameters=rates)
    other = runs._replace(key=make_runs(runs.split, seed=4).key)
    smaller = Recipe(network=RECIPE.network, batch_size=16)
    for name, change in {
        "started with epochs 2, now 3": {"epochs": 3},
        "started with wave_size 4, now 5": {"wave_size": 5},
        "started with recipe.batch_size 32, now 16": {"recipe": smaller},
        "started with hyperparameters.learning_rate .* of run 1, now 1.0": {
            "make_wave": functools.partial(_wave, faster)
        },
        "started with other random keys": {"make_wave": functools.partial(_wave, other)},
        "started with other data": {"data": (data[0] + 1, data[1])},
        "started with seed 3, now 4": {"identity": {"seed": 4}},
    }.items():
        arguments = {"data": data, "identity": {"seed": 3}, "resume": True, **change}
        with pytest.raises(CheckpointError, match=name):
            _train(runs=runs, folder=tmp_path, **arguments)
    (tmp_path / "wave-00000004.npz").rename(tmp_path / "wave-00000003.npz")
    with pytest.raises(CheckpointError, match="started with start 4, now 3"):
        _train(data, runs, tmp_path, resume=True, identity={"seed": 3})


def test_more_runs_go_on_and_fewer_are_refused(
    data: Arrays, runs: Run, uninterrupted: WaveResults, tmp_path: Path
) -> None:
    _train(data, runs, tmp_path, count=6)  # the second wave is not full
    before = {path.name: path.read_bytes() for path in tmp_path.glob("wave-*")}
    with pytest.raises(CheckpointError, match="started with other data"):
        _train((data[0] + 1, data[1]), runs, tmp_path, resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("wave-*")} == before
    told: list[int] = []
    again = _train(data, runs, tmp_path, resume=True, on_wave=told.append)
    assert told == [4, 8, 10]
    _assert_equal(again, uninterrupted)
    with pytest.raises(CheckpointError, match="started with count 10, now 6"):
        _train(data, runs, tmp_path, resume=True, count=6)


def test_a_folder_in_use_is_refused_by_name(data: Arrays, runs: Run, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUse, match=f"{tmp_path} is in use by process {os.getpid()} on "):
        _train(data, runs, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock.holder"}, "nothing else"
    lock.release()

    def another(done: int) -> None:
        with pytest.raises(FolderInUse):
            FolderLock(tmp_path)
        told.append(done)

    told: list[int] = []
    _train(data, runs, tmp_path, on_wave=another)
    assert told == [0, 4, 8, 10]
    FolderLock(tmp_path)  # it was given back


def test_processes_with_other_waves_are_refused(
    data: Arrays, runs: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather_values(mine: np.ndarray) -> np.ndarray:
        other = mine.copy()
        other[-1] ^= 1  # the digest of the configuration
        return np.array([mine, other])

    monkeypatch.setattr(waves, "spans_job", lambda devices: True)
    monkeypatch.setattr(identity, "gather_values", gather_values)
    with pytest.raises(processes.ProcessesDiffer, match="have different configuration"):
        _train(data, runs, tmp_path / "waves")
    assert not (tmp_path / "waves").exists()


def test_what_the_first_process_finds_or_refuses_is_told_to_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []

    def told(look: Any) -> tuple[Any, Any]:
        """What process 0 gets and raises, and then process 1, which must not look for itself."""
        outcome: list[Any] = []
        for process, own in enumerate((look, lambda: pytest.fail("process 1 looked"))):
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            try:
                outcome.append(by_first(own, together=True))
            except Exception as error:
                outcome.append(error)
        return outcome[0], outcome[1]

    def from_first(content: bytes) -> bytes:
        sent[:] = [content] if jax.process_index() == 0 else sent
        return sent[0]

    monkeypatch.setattr(wave_files, "from_first", from_first)
    found = {"loss": np.array([np.pi, np.nan]), "starts": np.array([], np.int64)}
    for got in told(lambda: found):
        assert got.keys() == found.keys()
        np.testing.assert_array_equal(got["loss"], found["loss"])
        assert got["loss"].dtype == np.float64 and got["starts"].dtype == np.int64

    def refuse() -> Any:
        raise FolderInUse("held by another")

    first, second = told(refuse)
    assert isinstance(first, FolderInUse) and isinstance(second, CheckpointError)
    assert str(first) == str(second) == "held by another"


@pytest.mark.parametrize("process", [0, 1])
def test_all_stop_where_one_is_asked_to_and_the_first_alone_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: int
) -> None:
    nothing_yet = io.BytesIO()
    np.savez(nothing_yet, starts=np.array([], np.int64))
    asked = iter([False, False, True])  # the other process: at the start, and after each wave
    monkeypatch.setattr(wave_files, "from_first", lambda content: nothing_yet.getvalue())
    monkeypatch.setattr(wave_files, "gather_values", lambda mine: np.array([mine, next(asked)]))
    monkeypatch.setattr(jax, "process_index", lambda: process)
    with pytest.raises(WavesInterrupted, match="stopped after 4 of 6 runs"):
        in_waves(
            lambda start, stop: {"loss": np.zeros(stop - start)},
            *(6, 2),
            folder=tmp_path / "waves",
            identity_of=lambda start, stop: {},
            together=True,
        )
    written = sorted(path.name for path in tmp_path.glob("waves/wave-*"))
    assert written == ["wave-00000000.npz", "wave-00000002.npz"][: 2 * (process == 0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wave_size": 0}, "must be at least 1"),
        ({"epochs": 0}, "must be at least 1"),
        ({"make_wave": lambda start, stop: 3}, r"must give 4 runs .* gave 3"),
        ({"make_wave": "longer"}, "as the first wave; it gave 4 of"),
    ],
)
def test_wrong_arguments_are_refused(
    data: Arrays, runs: Run, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    if change.get("make_wave") == "longer":
        change = {"make_wave": lambda start, stop: _longer(_wave(runs, start, stop), start)}
    elif "make_wave" in change:
        change = {"make_wave": lambda start, stop: _wave(runs, 0, 3)}
    with pytest.raises(ValueError, match=message):
        _train(data, runs, tmp_path, **change)
    assert not [*tmp_path.glob("*.tmp")]


def _longer(runs: Run, start: int) -> Run:
    pad = ((0, 0), (0, start))
    rows, weights = runs.split.train_rows, runs.split.train_weights
    return runs._replace(
        split=runs.split._replace(
            train_rows=np.pad(rows, pad), train_weights=np.pad(weights, pad).astype(np.float32)
        )
    )


def test_orbax_is_not_imported_for_waves() -> None:
    code = "import sys, digits_jax; assert 'orbax' not in {m.split('.')[0] for m in sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_no_waves_no_results(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished wave in"):
        read_waves(tmp_path)
