"""Ctrl-C and SIGTERM: save, and end with 130 or 143; a second one ends at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runner import CROSS_VALIDATE, EXPERIMENTS, NoOptions, Script, Tally, newest_epoch

pytestmark = pytest.mark.slow  # signals to scripts


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C as on a terminal: a job in the background may have been started deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_saves(tmp_path: Path, cache: Path, reference: Script, tally: Tally) -> None:
    """SIGTERM, and that what was stopped so resumes to the same bits: test_cross_validate.py."""
    script = Script(CROSS_VALIDATE.words, tmp_path / "run", cache)
    assert script.until(lambda: script.progress() == 1)
    script.process.send_signal(signal.SIGINT)
    code, errors = script.end()
    assert code == 128 + signal.SIGINT, errors
    stopping, error = errors.splitlines()
    assert stopping == "stopping after this epoch; once more to end at once"
    assert "all of it is saved. Go on with: " in error
    assert newest_epoch(tmp_path / "run") == script.progress()
    tally.survived("signals")


def test_the_second_ends_at_once_even_while_xla_compiles(tmp_path: Path, tally: Tally) -> None:
    words = [*CROSS_VALIDATE.words, "--no-compilation-cache", "--epochs", "1000000"]
    script = Script(words, tmp_path / "run", tmp_path)
    assert script.until(lambda: (tmp_path / "run" / "checkpoints").exists())
    script.process.send_signal(signal.SIGINT)
    time.sleep(0.2)  # two at once would be one
    script.process.send_signal(signal.SIGINT)
    code, errors = script.end()
    assert code == 128 + signal.SIGINT, errors
    assert script.progress() == 0, "it was compiling"
    assert "Traceback" not in errors
    tally.survived("signals")


def test_sigterm_outside_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr("sys.argv", ["script.py"])
    from common import command_line

    before = signal.getsignal(signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT):
        with pytest.raises(SystemExit) as stop:
            command_line.run(NoOptions, lambda _, n=number: os.kill(os.getpid(), n), "A script.")
        assert stop.value.code == 128 + number
        assert "stopped; nothing was saved since" in capsys.readouterr().err
    signal.signal(signal.SIGTERM, before)


def test_signals_are_as_before_after_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    from common import console

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with console.Stop() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 30
        while stop.signal is None and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.signal == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
