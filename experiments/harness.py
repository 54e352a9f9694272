"""What every script here shares: its command line, its errors, its console and its output folder.

Only the standard library, tyro and rich are imported before the arguments are parsed, so that
``--help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import dataclasses
import errno
import importlib.metadata
import importlib.util
import inspect
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import time
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import tyro
from rich.markup import escape

from terminal import Stop as Stop
from terminal import Watch as Watch
from terminal import console as console
from terminal import errors as errors
from terminal import notes as notes
from terminal import say_in_plain_words

if TYPE_CHECKING:
    from digits_jax import CrossValidation, Dataset, Provenance, Recipe, Run, TrainState
    from digits_jax.runs.results import Progress
    from digits_jax.statistics import Summary
    from digits_jax.storage.locks import FolderLock

Config = TypeVar("Config")

LEAVE_SECONDS = 10  # that a process which fails waits for the others of its job
# Options that every script may have, and that change nothing of what is computed.
ASIDE = (
    "output_dir checkpoint_every resume verbose compilation_cache svg tensorboard quiet job".split()
)
MOST, LARGEST = 2**31 - 1, 3.4028235e38  # of int32 and of float32, in which JAX computes
VERSIONS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


class UsageError(Exception):
    """A user's mistake; the message names the cause and the remedy, in one line."""


class Stopped(Exception):
    """A signal ended the run after it was saved."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Options of a script that several processes can run together; a field of its ``Config``."""

    distributed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train together with the other processes of a job. Start each with the same options, and an
    --output-dir on a file system that all share."""
    coordinator_address: str | None = None
    """HOST:PORT of process 0, any free port. Under SLURM, Open MPI and Kubernetes, and on Cloud
    TPUs, JAX finds out this and the next two."""
    num_processes: int | None = None
    """Of the job."""
    process_id: int | None = None
    """Of this process, from 0."""


def run(config: type[Config], main: Callable[[Config], None], description: str) -> None:
    """Parses the command line and calls ``main``; a user's mistake becomes one line, no traceback.

    Exit codes: 0 done, 1 could not be done, 2 a wrong argument, 130 and 143 stopped by a signal.
    """
    try:
        parsed = _parse(config, description)
    except BrokenPipeError:  # --help | head
        os._exit(1)
    notes.quiet = getattr(parsed, "quiet", False)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        _run(main, parsed)
    except BaseException as error:
        if _process() is not None:  # the others may wait for this one, and this one for them
            code = error.code if isinstance(error, SystemExit) else 1
            timer = threading.Timer(LEAVE_SECONDS, os._exit, [code])
            timer.daemon = True
            timer.start()
        raise


def _run(main: Callable[[Config], None], parsed: Config) -> None:
    try:
        if getattr(parsed, "tensorboard", False):
            found = importlib.util.find_spec("tensorboardX") is not None
            require(found, "--tensorboard needs a package: pip install '.[tensorboard]'")
        main(parsed)
    except UsageError as error:
        _fail(error, 2)
    except Stopped as error:
        _fail(error, error.exit_code)
    except KeyboardInterrupt as stop:
        number = stop.args[0] if stop.args else signal.SIGINT
        _fail("stopped; nothing was saved since the last checkpoint", 128 + number)
    except BrokenPipeError:
        os._exit(1)  # who read our output is gone, and Python would complain about it at exit
    except OSError as error:
        _fail(f"{error.filename or 'output'}: {error.strerror or error}{_remedy(error)}", 1)
    except Exception as error:
        # Imported by main already, if it came that far; they are the user's to mend.
        from digits_jax.data import DataError
        from digits_jax.parallel.processes import ProcessesDiffer, ProcessLost
        from digits_jax.storage.errors import CheckpointError, SaveError
        from digits_jax.storage.locks import FolderInUse

        if isinstance(error, ProcessLost):
            why = str(error).splitlines()[0]
            _fail(f"{why}; start all again, with --resume to go on from what was saved", 1)
        if not isinstance(error, CheckpointError | DataError | FolderInUse | ProcessesDiffer):
            raise
        _fail(error, 1 if isinstance(error, SaveError) else 2)


def _parse(config: type[Config], description: str) -> Config:
    """The command line; of what tyro says of a mistake, the first paragraph as one line."""
    said = io.StringIO()
    if {"-h", "--help"} & set(sys.argv):
        with contextlib.suppress(OSError):  # no source: then its lines stay as they are
            _join_lines_of_help(config)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(config, description=joined(description))
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.flush()
            raise
        text = said.getvalue()
        parts = re.split(r"\n[ │]*[-─]{5,}[ │]*\n", text)
        title_apart = "╭" not in text and len(parts) > 1  # where the output isn't UTF-8
        problem = " ".join(re.sub("╭.*╮|│|╰.*╯", " ", parts[title_apart]).split())
        word = r"""Error parsing (--\S+): .*(int\(\)|to float).*?: (".*?"|'.*?')"""
        if no := re.match(word, problem):  # tyro lists all types that it tried, None too
            kind = "an integer" if no[2] == "int()" else "a number"
            problem = f"{no[1]}: {no[3]} is not {kind}"
        _fail(f"{problem} (--help lists all options)", 2)


def joined(text: str) -> str:
    """Each paragraph as one line, for tyro to wrap; indented lines stay: commands, tables.

    tyro by itself keeps the end of a line where the next begins with no letter, such as a flag.
    """
    lines: list[str] = []
    for line in inspect.cleandoc(text).splitlines():
        if lines and all(each and not each[0].isspace() for each in (line, lines[-1])):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _join_lines_of_help(config: Any) -> None:
    """Gives tyro the docstrings of a class's own and inherited fields, ``joined``."""
    bases: list[Any] = [base for base in config.__mro__ if dataclasses.is_dataclass(base)]
    for base in bases:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        plain_hints = typing.get_type_hints(base)
        hints = typing.get_type_hints(base, include_extras=True)
        for field, below in itertools.pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                name, text = ast.unparse(field.target), joined(ast.literal_eval(below.value))
                if dataclasses.is_dataclass(plain_hints[name]):
                    _join_lines_of_help(plain_hints[name])
                hint = tyro.conf.arg(help=text, help_behavior_hint=_hint)
                base.__annotations__[name] = Annotated[hints[name], hint]


def _hint(default: str) -> str:
    """What follows an option's text: its default, where the text doesn't say what nothing means."""
    return "" if default in ("None", "") else f"(default: {default})"


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt(number)


def _remedy(error: OSError) -> str:
    """What to do about an error of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "; make room, then run it again, with --resume if it was training"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return "; choose an --output-dir that you can write to"
    if error.errno == errno.ENOENT:
        return "; was the folder removed? Run it again"
    return ""


def _fail(message: object, code: int) -> NoReturn:
    who = f"process {_process()}: " if _process() else ""
    text = f"{who}[bold red]error:[/] {escape(str(message))}"
    errors.print(text, highlight=False, soft_wrap=True)
    sys.exit(code)


def _process() -> int | None:
    """The number of this process, where it is one of a job."""
    jax = sys.modules.get("jax")  # not imported for a mere mistake in an argument
    if jax is None or not jax.distributed.is_initialized():
        return None
    return int(jax.process_index())


def reports() -> bool:
    """Whether this process prints and writes: the only one, or number 0 of a job."""
    return not _process()


def anywhere(condition: bool) -> bool:
    """Whether something is so in any process of the job, all of which must ask at once."""
    if _process() is None:
        return condition
    import numpy as np

    from digits_jax.parallel.processes import gather_values

    return bool(gather_values(np.asarray(condition)).any())


def require(condition: bool, message: str) -> None:
    """A check of an argument: raises UsageError."""
    if not condition:
        raise UsageError(message)


def positive(**values: float | None) -> None:
    """Checks that numbers are greater than zero and fit int32 or float32; None passes."""
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        require(value is None or value > 0, f"{flag} must be a positive number, not {value}")
        most = MOST if isinstance(value, int) else LARGEST
        require(value is None or value <= most, f"{flag} must be at most {most}, not {value}")


def few_enough(count: int, flags: str) -> None:
    """Checks the number of splits, or of networks on each: beyond, it is a slip of the keys."""
    require(count <= 10_000, f"{flags} must make at most 10000, not {count}")


def countable(epochs: int, rows: int, batch_size: int) -> None:
    """Checks that JAX's 32 bits can count the steps of a run."""
    steps = epochs * -(-rows // batch_size)
    require(steps <= MOST, f"--epochs {epochs} makes {steps} steps; at most {MOST} can be counted")


def seed(**values: int) -> None:
    """Checks that seeds are what both NumPy and JAX take."""
    for name, value in values.items():
        flag = "--" + name.replace("_", "-")
        require(0 <= value < 2**32, f"{flag} must be in 0 to 2^32 - 1, not {value}")


def xla_flags() -> dict[str, str]:
    """What the scripts set for XLA in the environment, as far as the user has not."""
    flags = os.environ.get("XLA_FLAGS", "")
    with contextlib.suppress(OSError):  # /proc is Linux's
        if "avx512f" in Path("/proc/cpuinfo").read_text() and "vector_width" not in flags:
            # XLA fills half of such a processor's registers unless asked: 3 % of a step's time.
            return {"XLA_FLAGS": f"{flags} --xla_cpu_prefer_vector_width=512".strip()}
    return {}


def start_jax(*, compilation_cache: bool, job: Job | None = None) -> None:
    """Imports JAX with one device a core, the library's messages on the console, and its cache.

    With a ``job``, it waits for the other processes, and only process 0 goes on to print.
    """
    if job is not None:
        given = {job.coordinator_address, job.num_processes, job.process_id} != {None}
        flags = "--coordinator-address, --num-processes and --process-id"
        require(job.distributed or not given, f"{flags} need --distributed")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # of XLA: its errors raise exceptions
    from digits_jax import use_all_cpu_cores, use_compilation_cache

    say_in_plain_words()
    _quiet_orbax()
    os.environ.update(xla_flags())
    use_all_cpu_cores()
    if compilation_cache:
        use_compilation_cache()
        _mend_compilation_cache()
    if job is not None and job.distributed:
        _join(job)


def _join(job: Job) -> None:
    """Waits for the other processes of the job, and is silent from then on except in process 0."""
    from digits_jax.parallel.startup import initialize_distributed

    if job.coordinator_address:  # JAX ends the process, at length, where they don't come
        text = f"waiting for {job.num_processes} processes at {job.coordinator_address}, 5 minutes"
        patience = threading.Timer(LEAVE_SECONDS, errors.print, [text])
    else:
        patience = threading.Timer(LEAVE_SECONDS, errors.print, ["waiting for the other processes"])
    patience.daemon = True
    patience.start()
    try:
        initialize_distributed(job.coordinator_address, job.num_processes, job.process_id)
    except ValueError as error:
        text = str(error)
        for field in dataclasses.fields(Job):
            text = text.replace(field.name, "--" + field.name.replace("_", "-"))
        raise UsageError(text) from error
    finally:
        patience.cancel()
    if not reports():
        console.quiet = notes.quiet = True
        logging.getLogger("digits_jax").setLevel(logging.ERROR)


def _quiet_orbax() -> None:
    """Damage and full disks are raised, and become one line; orbax also tells of them at length."""
    from absl import logging as absl

    absl.set_verbosity(absl.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    show = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":  # by the first array that failed
            show(unraisable)

    sys.unraisablehook = hook


def _mend_compilation_cache() -> None:
    """Deletes a compiled program that a kill or a full disk cut short, as soon as JAX meets it.

    JAX compiles it anew, but would neither replace the file nor ever stop to complain of it.
    """
    import jax

    folder: str = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    show = warnings.showwarning

    def mend(message: Warning | str, *arguments: Any, **options: Any) -> None:
        damaged = re.match(
            r"Error reading persistent compilation cache .* '([\w.-]+)'", str(message)
        )
        if damaged is None:
            return show(message, *arguments, **options)
        for entry in Path(folder).glob(f"{damaged[1]}-*"):
            entry.unlink(missing_ok=True)

    warnings.showwarning = mend


def show_data(provenance: Provenance) -> None:
    """One line: which rows these are and why."""
    note = escape(provenance.note)
    fallback = "because" in note  # not the rows that one would wish for
    if fallback:
        note = f"[yellow]{note}[/]"
    (errors if fallback and notes.quiet else notes).print(
        f"[bold]data[/] {note} ({provenance.rows} rows, sha256 {provenance.sha256[:12]}…)",
        highlight=False,
        soft_wrap=True,
    )


def checkpoints_in(folder: Path) -> Path:
    """The folder of checkpoints that --checkpoint means: itself, or that of an output folder."""
    inside = folder / "checkpoints"
    folder = inside if inside.is_dir() else folder
    # Of a folder that isn't there, or whose checkpoints are damaged, the library speaks.
    held = not folder.is_dir() or any(each.name.isdecimal() for each in folder.iterdir())
    give = "give the output folder of train.py or cross_validate.py"
    require(held, f"no checkpoint in {folder}; {give}")
    return folder


def run_names(states: TrainState, identity: Mapping[str, Any]) -> list[str]:
    """The names of the runs of a checkpoint, as its script gave them, or run 1, run 2, …."""
    count = len(states.step)
    names = identity.get("runs")
    if isinstance(names, list) and len(names) == count:
        return [str(name) for name in names]
    return [f"run {i + 1}" for i in range(count)]


def find_run(names: Sequence[str], run: str) -> int:
    """Which of the runs --run means: by its name, or by its number from 1."""
    if run in names:
        return names.index(run)
    known = f"--run {run}: the checkpoint has {', '.join(names)}, or 1 to {len(names)}"
    require(run.isdecimal() and 1 <= int(run) <= len(names), known)
    return int(run) - 1


class Output:
    """An output folder: what is written into it is whole or absent, and ``results.json`` is last.

    One process at a time writes to it.

    Args:
        folder: None: ``runs/<script>/<date>-<time>``.
        resume: go on with what the folder holds; otherwise a folder that holds a run is refused.
            None for a script that can't resume.
        job: the processes that share the folder.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        script: str,
        resume: bool | None = None,
        job: Job | None = None,
    ) -> None:
        if folder is None:
            require(not resume, "--resume needs --output-dir, the folder of the run to go on with")
            together = job is not None and job.distributed
            require(not together, "--distributed needs --output-dir, the same for all processes")
            folder = Path("runs") / script / time.strftime("%Y%m%d-%H%M%S")
        require(not folder.exists() or folder.is_dir(), f"--output-dir {folder} is not a folder")
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.waves = folder / "waves"
        self._resume = resume
        self._lock: FolderLock | None = None
        self._refuse_another_run()

    def _refuse_another_run(self) -> None:
        names = ("results.json", "checkpoints", "waves")
        held = [name for name in names if (self.folder / name).exists()]
        if held and not self._resume:
            go_on = "" if self._resume is None else "add --resume to go on with it, or "
            raise UsageError(
                f"{self.folder} holds a run already ({held[0]}); {go_on}choose another --output-dir"
            )

    def claim(self) -> None:
        """Makes the folder and locks it; called once all arguments are known to be good.

        Of a job, process 0 does, and all call this.
        """
        if reports():
            self._take()
        if _process() is not None:
            import numpy as np

            from digits_jax.parallel.processes import gather_values

            gather_values(np.zeros(()))  # process 0 has it now
            require(
                self.folder.is_dir(),
                f"--output-dir {self.folder} is not what process 0 made; choose a folder on a file "
                "system that all processes share",
            )

    def _take(self) -> None:
        from digits_jax.storage.locks import FolderLock

        self._lock = FolderLock(self.folder)
        self._refuse_another_run()  # which may have ended since we looked
        for left in self.folder.glob(".*.partial"):  # by a kill
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def begin(self) -> None:
        """Takes results.json away, since a run counts as complete while it is there.

        Called before anything else changes in the folder, and no sooner: what is refused, say a
        --resume with another configuration, leaves a finished run finished.
        """
        if reports():
            (self.folder / "results.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        """A path to write to, which becomes ``name`` if nothing fails."""
        try:
            self.begin()
            descriptor, path = tempfile.mkstemp(".partial", f".{name}.", self.folder)
            os.close(descriptor)
            try:
                yield Path(path)
                os.chmod(path, 0o666 & ~_umask())  # mkstemp keeps others out
                os.replace(path, self.folder / name)
            finally:
                Path(path).unlink(missing_ok=True)
        except OSError as error:  # an error of writing names no file
            why = error.strerror or str(error)
            raise OSError(error.errno, why, str(self.folder / name)) from error

    def arrays(self, name: str, **arrays: Any) -> None:
        """Writes a compressed .npz."""
        import numpy as np

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
        with self._whole(name) as path, path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def name_diverged(result: CrossValidation, names: list[str]) -> dict[str, int]:
    """The epochs since which runs diverged, by name; each is also told on standard error."""
    epochs = zip(names, result.diverged.tolist(), strict=True)
    diverged = {name: epoch for name, epoch in epochs if epoch}
    for name, epoch in diverged.items():
        errors.print(
            f"[yellow]{escape(name)} diverged in epoch {epoch}[/]; it is left out of the means. "
            "Try a smaller --learning-rate.",
            highlight=False,
            soft_wrap=True,
        )
    return diverged


def curves(result: CrossValidation) -> tuple[Any, Any]:
    """Training loss and accuracy [R, E], NaN from where a run diverged on: for a figure."""
    import numpy as np

    epochs = np.arange(1, result.history.loss.shape[1] + 1)
    failed = (result.diverged[:, None] > 0) & (epochs[None] >= result.diverged[:, None])
    loss, accuracy = (np.where(failed, np.nan, each) for each in result.history)
    return loss, accuracy


def summary_json(name: str, summary: Summary) -> dict[str, Any]:
    """A summary for ``results.json``; the interval of a share ends at 0 and 1, unlike Student's."""
    low, high = summary.ci95
    if name != "loss":
        low, high = max(low, 0.0), min(high, 1.0)
    return {"mean": summary.mean, "std": summary.std, "ci95": (low, high)}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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


def describe(config: Any, provenance: Provenance) -> dict[str, Any]:
    """What every ``results.json`` begins with: data, configuration, devices, versions, command."""
    import jax

    devices = jax.devices()
    return {
        "data": {
            "source": provenance.source,
            "rows": provenance.rows,
            "sha256": provenance.sha256,
            "note": provenance.note,
        },
        "config": dataclasses.asdict(config),
        "command": shlex.join(["python", *sys.argv]),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "processes": jax.process_count(),
        },
        "versions": {
            "digits_jax": importlib.metadata.version("digits_jax"),
            "python": sys.version.split()[0],
            **{name: importlib.metadata.version(name) for name in VERSIONS},
        },
    }


def train(
    dataset: Dataset,
    runs: Run,
    names: list[str],
    output: Output,
    *,
    recipe: Recipe,
    epochs: int,
    seed: int,
    checkpoint_every: int | None,
    resume: bool,
    verbose: bool = False,
    part: str = "",
    tensorboard: bool = False,
) -> CrossValidation:
    """``cross_validate`` with a progress bar, checkpoints, and a clean stop at a signal.

    ``part`` is the checkpoints' own folder, where a script trains more than once.
    """
    import numpy as np

    import digits_jax as dj

    rows = float(np.sum(runs.split.train_weights))
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(Watch(epochs, len(names), rows=rows, verbose=verbose))
        tracker = None
        if tensorboard and reports():
            from tracking import Tracker, learning_rates

            rates = learning_rates(runs, recipe, epochs)
            tracker = stack.enter_context(Tracker(output.folder, names, rates))

        def on_epoch(progress: Progress) -> bool:
            output.begin()
            if tracker is not None:
                tracker.write(progress.history)
            return watch.on_epoch(progress)

        try:
            result = dj.cross_validate(
                dj.Examples(dataset.images, dataset.labels),
                runs,
                recipe=recipe,
                epochs=epochs,
                checkpoints=output.checkpoints / part,
                checkpoint_every=checkpoint_every,
                identity={"runs": names, "seed": seed},
                resume=resume,
                on_epoch=on_epoch,
            )
        except dj.Interrupted as stop:
            raise stopped(stop, watch, output) from stop
        if tracker is not None:
            tracker.write(result.history)  # a resumed run may have had no epoch left to train
        return result


def stopped(stop: Exception, watch: Watch, output: Output) -> BaseException:
    """What to raise when a signal has ended the run, with the command that goes on with it."""
    if not reports():
        return SystemExit(128 + (watch.signal or signal.SIGINT))  # process 0 says it
    words = [word for word in sys.argv if word != "--resume"]
    if not any(word.startswith("--output-dir") for word in words):
        words += ["--output-dir", str(output.folder)]
    command = shlex.join(["python", *words, "--resume"])
    message = f"{stop}; all of it is saved. Go on with: {command}"
    return Stopped(message, watch.signal or signal.SIGINT)
