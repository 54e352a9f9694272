"""A full, read-only, missing or shared disk: one line with the path, and what was saved stays."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_runner import (
    CROSS_VALIDATE,
    EXPERIMENTS,
    NoOptions,
    Script,
    Tally,
    differences,
    newest_epoch,
)
from matplotlib.figure import Figure

from common.options import Folder, ResumableOut
from digits_jax.plots import save
from digits_jax.storage.checkpoints import Checkpoints
from digits_jax.storage.errors import SaveError

pytestmark = [
    pytest.mark.slow,  # full disks
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SMALL = {"weights": np.ones((2, 100), np.float32)}
LARGE = {"weights": np.random.default_rng(0).normal(size=(2, 300_000)).astype(np.float32)}


class Disk:
    """A disk of its own, of a few MB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self._mount("size=2m", "-t", "tmpfs", "tmpfs")

    def _mount(self, options: str, *words: str) -> None:
        subprocess.run(["mount", "-o", options, *words, self.folder], check=True)

    def remount(self, options: str) -> None:
        """For example "size=9m" or "ro"."""
        self._mount(f"remount,{options}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk, where we may mount one."""
    try:
        disk = Disk(tmp_path / "disk")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a file system can't be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "-l", disk.folder], check=True)


def test_a_full_disk_keeps_the_checkpoints_before(disk: Disk, tally: Tally) -> None:
    folder = disk.folder / "saved"
    with pytest.raises(SaveError, match=f"{folder / '2'} can't be written .No space.*make room"):
        with Checkpoints(folder, {}) as checkpoints:
            checkpoints.save(1, SMALL)
            checkpoints.save(2, LARGE)  # the error of a save in the background is not lost
    assert not (folder / ".lock.holder").exists()
    disk.remount("size=9m")
    with Checkpoints(folder, {}) as checkpoints:
        assert checkpoints.epochs == [1]
        np.testing.assert_array_equal(checkpoints.restore(SMALL)["weights"], SMALL["weights"])
        checkpoints.save(2, LARGE)
        checkpoints.wait()
        assert checkpoints.epochs == [2, 1]
    tally.survived("full disks")


def test_a_script_on_a_full_disk_goes_on_once_there_is_room(
    disk: Disk, cache: Path, reference: Script, tally: Tally
) -> None:
    disk.remount("size=6m")  # two checkpoints of 2.3 MB
    folder = disk.folder / "run"
    code, errors = Script(CROSS_VALIDATE.words, folder, cache).end()
    assert code == 1
    _one_line(errors, f"{folder}/", "can't be written", "o space left", "make room")
    assert newest_epoch(folder) >= 1
    disk.remount("size=60m")
    code, errors = Script([*CROSS_VALIDATE.words, "--resume"], folder, cache).end()
    assert code == 0 and not errors, errors
    different = differences(folder, reference.folder, CROSS_VALIDATE.arrays)
    if different:
        tally.lose("full disks", f"{different} differ")
    tally.survived("full disks")


def test_a_limit_on_the_size_of_files(tmp_path: Path, cache: Path, tally: Tally) -> None:
    """The same without any right to mount."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    code, errors = Script(CROSS_VALIDATE.words, tmp_path / "run", cache, limit=limit).end()
    assert code == 1
    _one_line(errors, str(tmp_path / "run" / "checkpoints"), "can't be written", "File too large")
    tally.survived("file-size limits")


def _one_line(errors: str, *parts: str) -> None:
    assert len(errors.strip().splitlines()) == 1, errors
    for part in ("error: ", *parts):
        assert part in errors


# What follows needs no training: the scripts' shared code in this process.


Run = Callable[[Callable[[Any], None]], tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a main, which is given the module of ``Output``: exit code and standard error."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr("sys.argv", ["script.py"])
    from common import command_line, output

    before = signal.getsignal(signal.SIGTERM)

    def call(main: Callable[[Any], None]) -> tuple[int, str]:
        code = 0
        try:
            command_line.run(NoOptions, lambda _: main(output), "A script.")
        except SystemExit as stop:
            code = int(str(stop.code))
        return code, capsys.readouterr().err

    yield call
    signal.signal(signal.SIGTERM, before)


def test_a_folder_that_cannot_be_written_to(
    run: Run, disk: Disk, tmp_path: Path, tally: Tally
) -> None:
    (tmp_path / "file").touch()
    disk.remount("ro")
    for folder, why in {
        disk.folder: "Read-only file system",
        disk.folder / "new": "Read-only file system",
        tmp_path / "file" / "new": "Not a directory",
    }.items():
        config = Folder(output_dir=folder)
        code, errors = run(lambda h, config=config: h.Output(config, script="s").claim())  # type: ignore[misc]
        assert code == 1
        _one_line(errors, str(folder), why, "choose an --output-dir that you can write to")
        tally.survived("folders that can't be written to")


@pytest.mark.parametrize("name", ["results.json", "history.npz", "figure"])
def test_results_on_a_full_disk(run: Run, disk: Disk, tally: Tally, name: str) -> None:
    (disk.folder / "filler").write_bytes(bytes(2 * 2**20 - 12_000))

    def main(module: Any) -> None:
        output = module.Output(ResumableOut(output_dir=disk.folder, resume=True), script="s")
        output.claim()
        if name == "results.json":
            output.json(name, {"text": "a" * 50_000})
        elif name == "history.npz":
            output.arrays(name, noise=np.random.default_rng(0).random(10_000))
        else:
            save(Figure(figsize=(8, 8)), output.folder / name, dpi=400)

    code, errors = run(main)
    assert code == 1
    _one_line(errors, str(disk.folder / name), "No space left on device", "make room")
    left = {path.name for path in disk.folder.iterdir()}
    assert left <= {"filler", ".lock", ".lock.holder", "options.json"}
    tally.survived("full disks")


def test_an_output_folder_removed_while_it_is_written_to(
    run: Run, tmp_path: Path, tally: Tally
) -> None:
    def main(module: Any) -> None:
        output = module.Output(ResumableOut(output_dir=tmp_path / "run", resume=True), script="s")
        output.claim()
        shutil.rmtree(tmp_path / "run")
        output.json("results.json", {})

    code, errors = run(main)
    assert code == 1
    _one_line(errors, str(tmp_path / "run" / "results.json"), "No such file", "Run it again")
    with pytest.raises(SaveError, match=f"{tmp_path / 'run' / '2'} can't be written .*removed"):
        with Checkpoints(tmp_path / "run", {}) as checkpoints:
            checkpoints.save(1, SMALL)
            checkpoints.wait()
            shutil.rmtree(tmp_path / "run")
            checkpoints.save(2, SMALL)
    tally.survived("folders removed")


def test_one_output_folder_for_two_runs(run: Run, tmp_path: Path, tally: Tally) -> None:
    def main(module: Any) -> None:
        first = module.Output(ResumableOut(output_dir=tmp_path, resume=True), script="s")
        first.claim()
        module.Output(ResumableOut(output_dir=tmp_path, resume=True), script="s").claim()

    code, errors = run(main)
    assert code == 2
    _one_line(errors, f"{tmp_path} is in use by process {os.getpid()} on ", "choose another")
    tally.survived("two writers")


def test_what_a_kill_left_half_written_goes(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".results.json.abc.partial").touch()
    (tmp_path / ".def.partial").mkdir()
    (tmp_path / ".gitignore").touch()
    config = ResumableOut(output_dir=tmp_path, resume=True)
    code, errors = run(lambda h: h.Output(config, script="s").claim())
    assert (code, errors) == (0, "")
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {".gitignore"}
