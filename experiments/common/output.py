"""The output folder of a script, and what every ``results.json`` begins with."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import math
import os
import signal
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape

import digits_jax as dj
from common import console, progress
from common.options import Folder, UsageError, require
from common.origin import origin, versions
from common.resuming import FILE, options_text
from common.startup import anywhere, process_index, reports
from digits_jax.storage.files import remove_partial_files, whole_file
from digits_jax.storage.locks import FolderLock

if TYPE_CHECKING:
    from common.drawing import Drawing
    from report import Report

STARTED = time.perf_counter()  # of the script, which imports this first
FRACTIONS = ("accuracy", "precision", "recall", "f1")  # scores between 0 and 1


class Output:
    """An output folder: what is written into it is whole or absent.

    ``results.json`` means that the numbers are complete: arrays and tables are there already, what
    is drawn comes after.

    One process at a time writes to it.

    Args:
        config: the options. ``output_dir`` is the folder; None: ``runs/<script>/<date>-<time>``.
            With ``resume`` it goes on with what the folder holds; otherwise a folder that holds a
            run is refused. A script without that option can't resume.
        script: its name.
    """

    def __init__(self, config: Folder, *, script: str) -> None:
        folder = config.output_dir
        resume: bool | None = getattr(config, "resume", None)
        job = getattr(config, "job", None)
        if folder is None:
            require(not resume, "--resume needs --output-dir, the folder of the run to go on with")
            together = job is not None and job.distributed
            require(not together, "--distributed needs --output-dir, the same for all processes")
        else:
            given = f"--output-dir {folder} is not a folder"
            require(not folder.exists() or folder.is_dir(), given)
        self._config, self._script = config, script
        self._options = None if resume is None else options_text(config, script)
        self._unnamed = folder is None
        self.folder = folder or Path("runs") / script / time.strftime("%Y%m%d-%H%M%S")
        self.warnings: list[str] = []  # what failed once the results were complete
        self._complete = False  # its results are written
        self._resume = resume
        self._lock: FolderLock | None = None
        if not self._unnamed:
            self._refuse_another_run()

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def waves(self) -> Path:
        """The folder of a sweep's waves."""
        return self.folder / "waves"

    @property
    def _held(self) -> list[str]:
        """What there is of a run in the folder."""
        names = ("results.json", "benchmark.json", "checkpoints", "waves", "parts")
        return [name for name in names if (self.folder / name).exists()]

    def _refuse_another_run(self) -> None:
        held = self._held
        if held and not self._resume:
            go_on = "" if self._resume is None else "add --resume to go on with it, or "
            raise UsageError(
                f"{self.folder} holds a run already ({held[0]}); {go_on}choose another --output-dir"
            )

    def claim(self) -> None:
        """Makes the folder and locks it; called once all arguments are known to be good.

        Of a job, process 0 does, and all call this. From now on results are printed once they are
        written.
        """
        console.results.hold()
        if reports():
            self._take()
        if process_index() is not None:
            anywhere(False)  # all wait here: process 0 has it now
            require(
                self.folder.is_dir(),
                f"--output-dir {self.folder} is not what process 0 made; choose a folder on a file "
                "system that all processes share",
            )

    def _take(self) -> None:
        if self._unnamed:
            self.folder = _new_folder(self.folder)
            _point_to_latest(self.folder)
        self._lock = FolderLock(self.folder)
        self._refuse_another_run()  # which may have ended since we looked
        remove_partial_files(self.folder)
        if self._resume and not self._held:
            anew = f"nothing to resume in {self.folder}: starting anew"
            console.say(escape(anew), console.notes)
        if not self._resume:
            self._keep_options()

    def _keep_options(self) -> None:
        """Writes the options of a script that can resume, once."""
        if self._options is not None:
            text, self._options = self._options, None
            self.text(FILE, text)

    def begin(self) -> None:
        """Takes an earlier results.json away: its numbers are complete while it is there.

        Called before anything else changes in the folder, and no sooner: what is refused, say a
        --resume with another configuration, leaves a finished run finished.
        """
        if reports() and not self._complete:
            (self.folder / "results.json").unlink(missing_ok=True)
            self._keep_options()

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        """A path to write to, which becomes ``name`` if nothing fails."""
        try:
            self.begin()
            with whole_file(self.folder / name) as path:
                yield path
        except OSError as error:  # an error of writing names no file
            why = error.strerror or str(error)
            raise OSError(error.errno, why, str(self.folder / name)) from error

    def arrays(self, name: str, **arrays: Any) -> None:
        """Writes a compressed .npz."""
        with self._whole(name) as path, path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a CSV: a line for each row, whose keys are those of the first."""
        with self._whole(name) as path, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    def text(self, name: str, content: str) -> None:
        """Writes text as UTF-8."""
        with self._whole(name) as path:
            path.write_text(content, encoding="utf-8")

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes JSON; NaN and infinity become null."""
        text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
        self.text(name, text)

    def finish(
        self,
        results: Mapping[str, Any],
        figures: Mapping[str, Drawing],
        page: Report | Callable[[Mapping[str, Any]], Report],
        *,
        data: dj.Provenance | None = None,
        also: Sequence[str] = (),
        says: str = "",
        track: Callable[[], None] | None = None,
        name: str = "results.json",
    ) -> None:
        """Writes ``results.json``; then prints, draws, writes the report, and says where all is.

        The last line is the path of the report, or of the results where there is no report.

        What fails once the results are there gets a line, is listed in them under "warnings", and
        makes the exit status 1.

        Args:
            results: for ``results.json``, which begins with the origin, the script, its options,
                and ``described`` data; its "seconds" get a "total".
            figures: by the names of their files.
            page: the report, or a function of the whole results that fills it.
            data: the rows; None where a script has none, and starts no JAX.
            also: what else is in the folder.
            says: a sentence before.
            track: writes for TensorBoard, once the figures are there.
            name: of the file of results.

        Raises:
            SystemExit: something failed; the status is 1.
            Stopped: a signal came once the results were there.
        """
        seconds = {**results.get("seconds", {}), "total": time.perf_counter() - STARTED}
        begun = {"experiment": self._script, "config": dataclasses.asdict(self._config)}
        begun |= origin() | ({} if data is None else described(data))
        results = {**begun, **results, "seconds": seconds, "warnings": self.warnings}
        self.json(name, results)
        self._complete = True
        console.results.release()
        formats = ("png", "svg") if getattr(self._config, "svg", False) else ("png",)
        drawn = []
        written = [name]
        try:
            with progress.waiting("drawing figures and report", at_once=False):
                for stem, drawing in figures.items():
                    with self._warning(f"figure {stem}"):
                        if drawing.figure is None:
                            raise drawing.error or AssertionError
                        path = self.folder / stem
                        dj.plots.save(drawing.figure, path, formats)
                        drawn.append(f"{stem}.png")
                if track is not None:
                    with self._warning("what tracks the run"):
                        track()
                with self._warning("report.html"):
                    filled = page(results) if callable(page) else page
                    self.text("report.html", filled.html(results))
                    written = ["report.html", name]
                if self.warnings:
                    self.json(name, results)
        except KeyboardInterrupt as stop:
            number = stop.args[0] if stop.args else signal.SIGINT
            words = f"stopped; {self.folder / name} is complete, but not all is drawn"
            raise console.Stopped(words, number) from stop
        took = _took(time.perf_counter() - STARTED, seconds)
        files = ", ".join([*written, *also, *drawn])
        before = f"{says} " if says else ""
        console.say(f"{before}{took}. Written to {escape(str(self.folder))}/: {escape(files)}")
        result = self.folder / written[0]
        console.show_path(result)
        if self._config.open and not webbrowser.open(result.absolute().as_uri()):
            console.say("--open found no browser", console.errors)
        if self.warnings:
            raise SystemExit(1)

    @contextlib.contextmanager
    def _warning(self, what: str) -> Iterator[None]:
        """What fails within becomes a warning: the results are complete."""
        try:
            yield
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            self.warnings.append(f"{what} could not be made ({why[:300]})")
            console.say(f"[yellow]warning:[/] {escape(self.warnings[-1])}", console.errors)


def _took(total: float, seconds: Mapping[str, float]) -> str:
    """The seconds in words; where training is among them, what adds up to all."""
    known = [part for part in ("compile", "train", "refit") if part in seconds]
    if not known:
        return f"{total:.1f} s"
    rest = max(0.0, total - sum(seconds[part] for part in known))
    parts = [f"{part} {seconds[part]:.1f}" for part in known]
    return f"{total:.1f} s ({', '.join(parts)}, start and figures {rest:.1f})"


def _new_folder(folder: Path) -> Path:
    """The folder, or where another start of the same second has it, one with a number behind."""
    for number in itertools.count(1):
        new = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with contextlib.suppress(FileExistsError):
            new.mkdir(parents=True)
            return new
    raise AssertionError("there is always another number")


def _point_to_latest(folder: Path) -> None:
    """Makes ``runs/latest`` a link to the folder; not where links can't be made."""
    latest = folder.parents[1] / "latest"
    new = latest.with_name(f".latest-{os.getpid()}")
    with contextlib.suppress(OSError, NotImplementedError):
        new.symlink_to(Path(*folder.parts[-2:]), target_is_directory=True)
        try:
            new.replace(latest)
        finally:
            new.unlink(missing_ok=True)


def described(data: dj.Provenance) -> dict[str, Any]:
    """Data, devices and versions, as results hold them."""
    import jax

    devices = jax.devices()
    return {
        "data": dataclasses.asdict(data),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "versions": versions(),
    }


def summary_json(name: str, summary: Any) -> dict[str, Any]:
    """A summary for ``results.json``; the interval of a fraction is cut at 0 and 1."""
    low, high = summary.ci95
    if name in FRACTIONS:
        low, high = max(low, 0.0), min(high, 1.0)
    sd = getattr(summary, "sd", None)
    return {"mean": summary.mean, "std": summary.std if sd is None else sd, "ci95": (low, high)}


def plain(value: Any) -> Any:
    """The value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, Path) else value
