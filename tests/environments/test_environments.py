"""Real scripts in real environments, as child processes: results, one line, and the right status.

The table is ``situations.py``. All of it is slow.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from situations import CROSS, ROOT, SITUATIONS, TRAIN, Situation

pytestmark = pytest.mark.slow
EXPERIMENTS = ROOT / "experiments"
# A user that no file knows, who may read an interpreter in root's home, too.
AS_NOBODY = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
AS_NOBODY += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of compiled programs that all situations share, but for those that have none."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Any]:
    """The results of the plain start."""
    here = tmp_path_factory.mktemp("plain")
    code, _, errors = _start(SITUATIONS["plain"], here, cache)
    assert code == 0, errors
    return _results(here)


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation_ends_as_it_must(
    name: str, tmp_path: Path, cache: Path, plain: dict[str, Any]
) -> None:
    situation = SITUATIONS[name]
    _skip_where_impossible(situation)
    code, output, errors = _start(situation, tmp_path, cache)
    assert "Traceback" not in errors, errors
    assert code == situation.status, errors
    lines = errors.splitlines()
    assert len(lines) == len(situation.errors), errors
    for line, part in zip(lines, situation.errors, strict=True):
        assert part in line
    for part in situation.prints:
        assert part in output
    assert not (tmp_path / "~").exists()
    if not situation.complete:
        assert not list(tmp_path.rglob("results.json"))
        return
    results = _results(tmp_path)
    assert len(results["warnings"]) == situation.warnings
    assert situation.devices in (None, results["devices"]["count"])
    if situation.like_plain:
        for score in ("loss", "accuracy"):
            assert results[score]["mean"] == pytest.approx(plain[score]["mean"], rel=1e-4)
    (folder,) = (path.parent for path in tmp_path.rglob("results.json"))
    page = (folder / "report.html").read_text() if situation.warnings == 0 else ""
    assert "<b>&" not in page


def _skip_where_impossible(situation: Situation) -> None:
    if situation.nobody and (not hasattr(os, "setuid") or os.getuid() != 0):
        pytest.skip("only root can start a process as another user")
    if situation.nobody and shutil.which("setpriv") is None:
        pytest.skip("no setpriv: apt install util-linux")
    if not Path("/proc").is_dir() and any("/proc" in str(w) for w in situation.words):
        pytest.skip("there is no /proc")
    if situation.module or set(situation.flags) & {"-P", "-I"}:
        code = "import digits_jax, common.options as o; print(digits_jax.__file__, o.__file__)"
        found = subprocess.run(
            [sys.executable, "-I", "-c", code], cwd="/", capture_output=True, text=True
        )
        if str(ROOT) not in found.stdout or found.returncode:
            pytest.skip("this checkout is not installed: pip install --editable .")


def _environment(situation: Situation, here: Path, cache: Path) -> dict[str, str]:
    own = {
        "PYTHONPATH": os.pathsep.join([str(here / "site"), str(ROOT)]),
        "XDG_CACHE_HOME": str(cache),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment = {**inherited, **own}
    for name, value in situation.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value.replace("{here}", str(here))
    return environment


def _start(situation: Situation, here: Path, cache: Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    (here / "site").mkdir()
    (here / "site" / "sitecustomize.py").write_text(situation.site)
    for name, content in situation.files.items():
        (here / name).write_text(content)
    script, *options = situation.words
    how = ["-m", f"experiments.{script.removesuffix('.py')}"]
    command = [sys.executable, *situation.flags]
    command += how if situation.module else [str(EXPERIMENTS / script)]
    if situation.nobody:
        shared = Path(tempfile.gettempdir())  # which all users may enter already
        for folder in (here, *here.parents):
            if shared in folder.parents:
                folder.chmod(0o777)
        command = [*AS_NOBODY, *command]
    with _standard_output(situation.stdout) as output:
        done = subprocess.run(
            [*command, *options],
            cwd=here,
            env=_environment(situation, here, cache),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=(lambda: os.close(1)) if situation.stdout == "closed" else None,
        )
    return done.returncode, done.stdout or "", done.stderr


class _standard_output:
    """A file, or the writing end of a pipe that nobody reads; by default, a pipe that is read."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._opened: int | None = None

    def __enter__(self) -> int:
        if self._where == "gone":
            reading, self._opened = os.pipe()
            os.close(reading)
            return self._opened
        if self._where.startswith("/"):
            self._opened = os.open(self._where, os.O_WRONLY)
            return self._opened
        return subprocess.PIPE

    def __exit__(self, *error: object) -> None:
        if self._opened is not None:
            os.close(self._opened)


def _results(here: Path) -> dict[str, Any]:
    (path,) = here.rglob("results.json")
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def test_jobs_that_start_in_one_second_get_folders_of_their_own(
    tmp_path: Path, cache: Path
) -> None:
    command = [sys.executable, str(EXPERIMENTS / TRAIN[0]), *TRAIN[1:]]
    environment = _environment(Situation(), tmp_path, cache)
    started = [
        subprocess.Popen([*command, "--seed", str(seed)], cwd=tmp_path, env=environment)
        for seed in range(3)
    ]
    assert [each.wait() for each in started] == [0, 0, 0]
    assert len(list(tmp_path.glob("runs/train/*/results.json"))) == 3


@pytest.fixture
def training(tmp_path: Path, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A cross-validation that has begun to train, deaf to SIGUSR2."""
    command = [sys.executable, str(EXPERIMENTS / CROSS[0]), *CROSS[1:]]
    command += ["--epochs", "100000", "--checkpoint-every", "100000", "--output-dir", "out"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=_environment(Situation(), tmp_path, cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("data "):  # then it compiles, and the signal waits
            break
    yield process
    process.kill()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM])
def test_what_schedulers_send_saves_and_stops(
    number: signal.Signals, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    end = time.monotonic() + 120
    while not (tmp_path / "out" / "checkpoints").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1)
    training.send_signal(signal.SIGUSR2)  # which is ignored, as it was at the start
    training.send_signal(number)
    _, errors = training.communicate(timeout=300)
    assert training.returncode == 128 + number, errors
    assert "all of it is saved. Go on with: " in errors
    assert any(path.name.isdecimal() for path in (tmp_path / "out" / "checkpoints").iterdir())


KERNEL = """
import gc, logging, os, runpy, signal, sys, warnings
import jax
jax.config.update("jax_num_cpu_devices", 1)
jax.devices()
names = ("digits_jax", "jax", "matplotlib", "absl", "asyncio")
def state():
    loggers = [logging.getLogger(name) for name in names]
    return (
        [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        [(list(each.handlers), each.level, each.propagate) for each in loggers],
        warnings.showwarning, sys.unraisablehook, dict(os.environ),
        jax.config.jax_compilation_cache_dir, gc.get_threshold(),
    )
before = state()
sys.path.insert(0, {experiments!r})
sys.argv = {words!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    after = state()
    assert before == after, (before, after)
    warnings.warn("seen")
"""


def test_a_notebook_is_left_as_it_was(tmp_path: Path, cache: Path) -> None:
    """As by %run, in a process whose devices have started."""
    words = [str(EXPERIMENTS / TRAIN[0]), *TRAIN[1:]]
    code = KERNEL.format(experiments=str(EXPERIMENTS), words=words)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=_environment(Situation(), tmp_path, cache),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning: seen" in done.stderr
    assert len(list(tmp_path.glob("runs/train/*/results.json"))) == 1
