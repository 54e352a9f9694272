"""--resume with the folder alone: the options come from there, and what is given too wins."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import sweep
import train
from common import command_line, output
from common.drawing import plots
from common.resuming import FILE
from report import Report


def _parsed(monkeypatch: pytest.MonkeyPatch, module: Any, *words: str) -> Any:
    """The options that a script gets of a command line."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    command_line.run(module.Config, found.append, module.__doc__)
    return found[0]


BEGUN = [
    "--svg",
    "--data",
    "x.csv",
    "--epochs",
    "7",
    "--set",
    "a=1",
    "b=2",
    "--learning-rate",
    "0.5",
]


def test_options_come_from_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    place = ["--output-dir", str(folder)]
    begun = _parsed(monkeypatch, train, *BEGUN, "--quiet", *place)
    output.Output(begun, script="train").claim()
    resumed = _parsed(monkeypatch, train, "--resume", *place)
    assert resumed == dataclasses.replace(begun, resume=True, quiet=False)
    more = _parsed(monkeypatch, train, "--resume", "--epochs", "9", "--set", "c=3", *place)
    assert more == dataclasses.replace(resumed, epochs=9, set=("c=3",))
    quiet = _parsed(monkeypatch, train, "--resume", "--quiet", *BEGUN, *place)  # all of it again
    assert quiet == dataclasses.replace(resumed, quiet=True)
    job = _parsed(monkeypatch, train, "--resume", "--distributed", "--process-id", "1", *place)
    assert job.job.distributed and job.job.process_id == 1 and job.epochs == 7
    # Without --resume, and in a folder that holds nothing, the command line is all.
    assert _parsed(monkeypatch, train, *place).epochs is None
    elsewhere = ["--output-dir", str(tmp_path / "new"), "--resume"]
    assert _parsed(monkeypatch, train, *elsewhere).epochs is None


def test_another_script_and_damage_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--output-dir", str(tmp_path)]
    output.Output(_parsed(monkeypatch, train, *place), script="train").claim()

    def refused(module: Any) -> str:
        with pytest.raises(SystemExit) as stop:
            _parsed(monkeypatch, module, "--resume", *place)
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "is of train.py, not of sweep.py; give another --output-dir" in refused(sweep)
    for text in ("", "{}", '{"script": "train", "options": {"no_such": 1}}'):
        (tmp_path / FILE).write_text(text)
        message = refused(train)
        assert f"{FILE} is damaged, or of another version" in message and message.count("\n") == 1


def test_what_is_refused_leaves_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run writes its options where it writes anything, and no sooner."""
    place = ["--output-dir", str(tmp_path)]
    output.Output(_parsed(monkeypatch, train, *BEGUN, *place), script="train").claim()
    before = (tmp_path / FILE).read_bytes()
    other = _parsed(monkeypatch, train, "--resume", "--epochs", "9", *place)
    resumed = output.Output(other, script="train")
    resumed.claim()
    assert (tmp_path / FILE).read_bytes() == before
    resumed.begin()
    assert b'"epochs": 9' in (tmp_path / FILE).read_bytes()


def _finished(folder: Path | None = None, **more: Any) -> Path:
    config = train.Config(output_dir=folder, **more)
    made = output.Output(config, script="train")
    made.claim()
    made.finish({}, {}, Report("x"))
    return made.folder


def test_the_last_line_is_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _finished(tmp_path / "a [b]")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "a [b]" / "report.html")
    xterm: dict[str, Any] = {"force_terminal": True, "_environ": {"TERM": "xterm"}}
    terminal = output.console.ScriptConsole(width=30, **xterm)
    monkeypatch.setattr(output.console, "results", terminal)
    _finished(tmp_path / "c")
    last = capsys.readouterr().out.splitlines()[-1]
    uri = (tmp_path / "c" / "report.html").as_uri()
    assert "\x1b]8;" in last and f";{uri}\x1b\\" in last
    assert str(tmp_path / "c" / "report.html") in last  # on one line, for who copies it


def test_nothing_to_resume_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    _finished(folder, resume=True)
    words = f"nothing to resume in {folder}: starting anew"
    assert words in capsys.readouterr().out.replace("\n", "")
    _finished(folder, resume=True)
    assert "nothing to resume" not in capsys.readouterr().out


def test_the_seconds_add_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = output.Output(train.Config(output_dir=tmp_path), script="train")
    made.claim()
    made.finish({"seconds": {"compile": 0.5, "train": 1.0, "refit": 2.0}}, {}, Report("x"))
    said = " ".join(capsys.readouterr().out.split())
    parts = (
        r"([\d.]+) s \(compile 0.5, train 1.0, refit 2.0, start and figures ([\d.]+)\)\. Written"
    )
    found = re.search(parts, said)
    assert found is not None, said
    total, rest = map(float, found.groups())
    assert rest == pytest.approx(max(0, total - 3.5), abs=0.11)


def test_latest_is_the_newest_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    latest = Path("runs", "latest")
    for _ in range(2):  # in one second: the second gets a number behind
        folder = _finished()
        assert latest.is_symlink() and latest.resolve() == folder.resolve()
        assert not Path(os.readlink(latest)).is_absolute()  # runs may move
    _finished(tmp_path / "elsewhere")
    assert latest.resolve() == folder.resolve()
    assert {each.name for each in Path("runs").iterdir()} == {"latest", "train"}
    latest.unlink()
    latest.mkdir()  # the user's own
    _finished()
    assert latest.is_dir() and not latest.is_symlink()


def test_open_shows_the_report_in_the_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser of one line, as webbrowser takes it from BROWSER."""
    import webbrowser

    shown = tmp_path / "shown"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > "{shown}"\n')
    script.chmod(0o755)
    browser = webbrowser.GenericBrowser([str(script), "%s"])
    monkeypatch.setattr(webbrowser, "_tryorder", ["ours"])
    monkeypatch.setattr(webbrowser, "_browsers", {"ours": [None, browser]})
    _finished(tmp_path / "quiet")
    assert not shown.exists()
    folder = _finished(tmp_path / "out", open=True)
    assert shown.read_text().strip() == (folder / "report.html").as_uri()


def test_a_figure_that_fails_leaves_the_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = output.Output(train.Config(output_dir=tmp_path), script="train")
    made.claim()
    page = Report("x")
    figure = plots.fold_scores({})
    with pytest.raises(SystemExit):
        made.finish({}, {"folds": figure}, page)
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.html")
