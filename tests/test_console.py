"""Progress on a terminal, in a log and in a notebook; warnings in plain words."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console

from common import command_line, console, progress
from digits_jax.data import DataWarning, Provenance
from digits_jax.runs.progress import latest
from digits_jax.runs.results import Progress


def _console(**options: object) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    settings: dict[str, object] = {"file": file, "width": 100, **options}
    return Console(**settings), file  # type: ignore[arg-type]


def _watch(epochs: int, runs: int, **options: object) -> bool:
    """Watches made-up epochs, in which the runs' accuracies are 0.5 and 0.7: 60 ± 10 %."""
    shares = np.resize([0.5, 0.7], (runs, 1))
    stopped = False
    options = {"what": f"{runs} runs" if runs > 1 else "", "rows": 1000, **options}
    with progress.Watch(runs, **options) as watch:  # type: ignore[arg-type]
        for epoch in range(1, epochs + 1):
            history = {
                "loss": np.full((runs, epoch), 0.25),
                "accuracy": np.repeat(shares, epoch, axis=1),
            }
            stopped = watch.on_epoch(Progress(epoch, epochs, history))
    return stopped


def test_plain_lines_where_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, file = _console()
    monkeypatch.setattr(console, "notes", notes)
    assert not _watch(40, 2)
    compiling, *lines = file.getvalue().splitlines()
    assert compiling == "compiling the program of 2 runs"
    assert [line.partition(":")[0] for line in lines] == [
        f"epoch {epoch}/40 of 2 runs" for epoch in (1, *range(4, 41, 4))
    ]
    form = r"training accuracy 60\.00 ± 10\.00 %, [\d,]+ rows/s(, \d+ s left)?$"
    assert all(re.search(form, line) for line in lines[1:])  # the first one knows no speed
    assert "left" in lines[1] and "left" not in lines[-1]
    assert "\x1b" not in file.getvalue()


def test_one_run_has_no_spread_and_the_first_epoch_no_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, file = _console()
    monkeypatch.setattr(console, "notes", notes)
    _watch(2, 1)
    compiling, first, second = file.getvalue().splitlines()
    assert compiling == "compiling the program"
    assert first == "epoch 1/2: training accuracy 50.00 %"  # its time includes compiling
    assert second.startswith("epoch 2/2: training accuracy 50.00 %, ")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, file = _console(force_terminal=True, no_color=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "notes", notes)
    _watch(3, 2)
    text = file.getvalue()
    for words in ("compiling", "epoch 3/3 of 2 runs", "training accuracy 60.00 ± 10.00 %", "left"):
        assert words in text
    assert "rows/s" in text  # 100 columns are wide enough
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", text)  # NO_COLOR: no colours


@pytest.mark.parametrize(("width", "words"), [(60, "epoch 3/3 "), (120, "rows/s")])
def test_a_bar_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, width: int, words: str) -> None:
    notes, file = _console(force_terminal=True, width=width, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "notes", notes)
    _watch(3, 200)
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", file.getvalue())
    lines = re.split(r"[\r\n]+", plain)
    assert max(map(len, lines)) <= width and "…" not in plain
    assert any(words in line and "training accuracy 60.00 ± 10.00 %" in line for line in lines)


def test_waves_say_which_runs_train_and_how_many_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, file = _console()
    monkeypatch.setattr(console, "notes", notes)
    history = {"loss": np.ones((3, 2)), "accuracy": np.full((3, 2), 0.5)}
    with progress.Watch(6, what="6 runs") as watch:
        for done in (0, 3):
            for epoch in (1, 2):
                now = Progress(epoch, 2, history)
                watch.on_epoch(now, what="3 runs", done=done, part=0.5)
    lines = [line.partition(": training")[0] for line in file.getvalue().splitlines()]
    assert lines == [
        "compiling the program of 6 runs",
        "epoch 1/2 of 3 runs, 0 of 6 runs done",
        "epoch 2/2 of 3 runs, 3 of 6 runs done",
        "epoch 1/2 of 3 runs, 3 of 6 runs done",
        "epoch 2/2 of 3 runs, 6 of 6 runs done",
    ]


def test_a_run_that_has_stopped_counts_with_its_last_epoch() -> None:
    nan = np.nan
    history = {
        "loss": np.array([[3, 2, nan], [3, nan, 9], [4, 5, 6]], np.float32),  # stopped, diverged
        "accuracy": np.array([[0.1, 0.2, nan], [0.3, 0.4, 0.5], [0.6, 0.7, 0.8]], np.float32),
    }
    ends = latest(history)
    np.testing.assert_array_equal(ends["loss"], np.array([2, 9, 6], np.float32))
    np.testing.assert_array_equal(ends["accuracy"], np.array([0.2, 0.5, 0.8], np.float32))


def test_no_long_silence_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten epochs and then work without news, at a hundredth of the time."""
    notes, file = _console()
    monkeypatch.setattr(console, "notes", notes)
    monkeypatch.setattr(progress.Heartbeat, "SILENCE", 0.1)
    history = {"loss": np.ones((1, 1)), "accuracy": np.full((1, 1), 0.5)}
    with progress.Watch(1) as watch:
        time.sleep(1.2)
        for epoch in range(1, 8):  # of 100: no tenth is reached
            watch.on_epoch(Progress(epoch, 100, history))
        time.sleep(1.2)
    lines = file.getvalue().splitlines()
    assert lines[0] == "compiling the program"
    assert re.fullmatch(r"compiling the program: \d+ s so far", lines[1])
    assert any(line.startswith("epoch 7/100: training accuracy 50.00 %") for line in lines[2:])
    assert re.fullmatch(r"after epoch 7/100: \d+ s so far", lines[-1])
    said = len(lines)
    time.sleep(0.7)
    assert len(file.getvalue().splitlines()) == said  # it is over


def test_waiting_says_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.Heartbeat, "SILENCE", 0.1)
    for at_once in (True, False):
        notes, file = _console()
        monkeypatch.setattr(console, "notes", notes)
        with progress.waiting("t-SNE of [9] rows", at_once=at_once):
            assert file.getvalue() == "t-SNE of [9] rows\n" * at_once
        with progress.waiting("SVM", at_once=at_once) as now:
            now("SVM: 3 of 5 splits")
            time.sleep(0.7)
        assert file.getvalue().endswith("SVM: 3 of 5 splits\n")
    terminal, file = _console(force_terminal=True, _environ={"TERM": "xterm"})
    monkeypatch.setattr(console, "notes", terminal)
    with progress.waiting("t-SNE of [9] rows") as now:
        now("SVM: [3] of 5")
    assert "SVM: [3] of 5" in file.getvalue()
    quiet, file = _console(quiet=True)
    monkeypatch.setattr(console, "notes", quiet)
    with progress.waiting("t-SNE"):
        time.sleep(0.7)
    assert file.getvalue() == ""


def test_quiet_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({}, {"force_terminal": True}):
        notes, file = _console(quiet=True, **options)
        monkeypatch.setattr(console, "notes", notes)
        _watch(3, 2)
        _watch(3, 2, verbose=True)
        assert file.getvalue() == ""


def test_a_signal_stops_and_handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, _ = _console()
    errors, said = _console()
    monkeypatch.setattr(console, "notes", notes)
    monkeypatch.setattr(console, "errors", errors)
    before = signal.getsignal(signal.SIGTERM)
    with progress.Watch(1) as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # a thread of its own listens
            if "stopping after this epoch" in said.getvalue():
                break
            time.sleep(0.01)
        assert watch.on_epoch(
            Progress(1, 2, {"loss": np.ones((1, 1)), "accuracy": np.ones((1, 1))})
        )
        assert watch.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_it_leaves_signals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, file = _console()
    monkeypatch.setattr(console, "notes", notes)
    thread = threading.Thread(target=_watch, args=(1, 1))
    thread.start()
    thread.join()
    assert "epoch 1/1" in file.getvalue()  # an error in a thread would be one of pytest's, too


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What ``errors`` prints once warnings are said in plain words; all is undone afterwards."""
    errors, file = _console(width=200)
    monkeypatch.setattr(console, "errors", errors)
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.delenv("JAX_LOGGING_LEVEL", raising=False)
    loggers = [logging.getLogger(name) for name in ("digits_jax", "jax", "absl")]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    console.say_in_plain_words()
    yield file
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


def test_a_gpu_that_jax_cannot_use_is_said_once(
    said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By JAX's own code, which is made to believe that there is one."""
    xla_bridge = pytest.importorskip("jax._src.xla_bridge")
    monkeypatch.setattr(xla_bridge.hardware_utils, "has_visible_nvidia_gpu", lambda: True)
    monkeypatch.setattr(xla_bridge, "_backends", {})
    monkeypatch.setattr(xla_bridge, "_backend_errors", {})
    for _ in range(2):
        xla_bridge._backends.clear()
        xla_bridge.backends()
    assert said.getvalue().count("NVIDIA GPU") == 1
    assert "pip install '.[cuda13]'" in said.getvalue()
    assert "jaxlib" not in said.getvalue()


def test_what_nobody_can_act_on_is_not_said(said: io.StringIO) -> None:
    logging.getLogger("jax._src.xla_bridge").warning("Platform 'x' is experimental")
    logging.getLogger("absl").warning("a checkpoint took 1 s")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = warnings.showwarning  # catch_warnings put Python's own there
        console.say_in_plain_words()
        warnings.warn("donated buffers were not usable", stacklevel=1)
        assert said.getvalue() == ""
        for _ in range(2):
            warnings.warn("these are not the known rows", DataWarning, stacklevel=1)
    assert said.getvalue().splitlines() == ["warning: these are not the known rows"]
    logging.getLogger("jax._src.x").error("this is an error")
    assert "this is an error" in said.getvalue()


def test_a_fallback_is_said_even_if_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, out = _console(quiet=True, width=200)
    errors, err = _console(width=200)
    monkeypatch.setattr(console, "notes", notes)
    monkeypatch.setattr(console, "errors", errors)
    known = Provenance(source="x.csv", rows=9, sha256="a" * 64, note="x.csv: as asked for")
    console.show_data(known)
    assert out.getvalue() == err.getvalue() == ""
    console.show_data(dataclasses.replace(known, note="bundled: because UCI is not there"))
    assert out.getvalue() == "" and "because UCI is not there" in err.getvalue()


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    quiet: bool = False


def test_quiet_keeps_back_all_but_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: _Config) -> None:
        console.notes.print("on the way")
        console.results.print("the result")

    monkeypatch.setattr(console.notes, "quiet", False)  # restored afterwards
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    for arguments, printed in (([], "on the way\nthe result\n"), (["--quiet"], "the result\n")):
        monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
        command_line.run(_Config, main, "")
        assert capsys.readouterr().out == printed
