"""The steps of gpu_check.sh, each run in a process of its own: ``python gpu_steps.py STEP ...``.

A step prints what it finds as JSON lines. The shell script says in the environment where to work
(GPU_CHECK_WORK) and whether this is a small trial on a CPU (GPU_CHECK_SMOKE).
"""

from __future__ import annotations

import argparse
import collections
import functools
import gzip
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import hlo
import jax
import jax.numpy as jnp
import library
import numpy as np
import variants

SMOKE = bool(os.environ.get("GPU_CHECK_SMOKE"))
WORK = Path(os.environ.get("GPU_CHECK_WORK", "."))
PACKAGES = (
    "jax jaxlib jax-cuda13-plugin jax-cuda12-plugin flax optax orbax-checkpoint numpy torch triton"
)
# Files of tests of one device's arithmetic.
TESTS = "test_model test_train test_augment test_optimizers test_recipes test_memory".split()


def report(**row: Any) -> None:
    """Prints a result, floats to six digits."""
    short = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps({"step": os.environ.get("GPU_CHECK_STEP", ""), **short}), flush=True)


def peak_gigabytes() -> float:
    """Of the device's memory, since this process began."""
    return float((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)) / 1e9


def use_precision(precision: str | None) -> None:
    """Sets that of matrix products; None leaves JAX's default."""
    if precision:
        jax.config.update("jax_default_matmul_precision", precision)


# ------------------------------------------------------------------------------------------- steps


def environment() -> None:
    """Versions, the card, and that JAX sees it."""
    row: dict[str, Any] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name in PACKAGES.split():
        try:
            row[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            row[name] = None
    query = "name,memory.total,driver_version,clocks.sm,clocks.mem,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        row["nvidia_smi"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        row["nvidia_smi"] = repr(error)
    report(data=Path(library.data_source()).name, **row)
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    report(
        platform=device.platform,
        kind=device.device_kind,
        devices=jax.device_count(),
        limit_GB=stats.get("bytes_limit", 0) / 1e9,
    )


def ceilings() -> None:
    """What the card can do at best: matrix products, copies, launches."""

    def seconds(function: Callable[..., Any], *arguments: Any, calls: int = 3) -> float:
        function(*arguments).block_until_ready()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(calls):
                result = function(*arguments)
            result.block_until_ready()
            times.append((time.perf_counter() - began) / calls)
        return float(np.median(times))

    def product(precision: str) -> Callable[..., Any]:
        return jax.jit(functools.partial(jnp.matmul, precision=precision))

    size = 512 if SMOKE else 8192
    x, y = (jax.random.normal(jax.random.key(seed), (size, size)) for seed in (0, 1))
    for precision in ("default", "highest"):
        took = seconds(product(precision), x, y)
        report(what="matmul", precision=precision, tflops=2 * size**3 / took / 1e12)
    took = seconds(jax.jit(jnp.matmul), x.astype(jnp.bfloat16), y.astype(jnp.bfloat16))
    report(what="matmul", precision="bfloat16", tflops=2 * size**3 / took / 1e12)
    ones = jnp.ones(size * size * (1 if SMOKE else 8))
    took = seconds(jax.jit(lambda x: x + 1.0), ones)
    report(what="read and write", terabytes_per_s=2 * ones.nbytes / took / 1e12)
    # The project's shapes: dense_2 of 6 and 500 runs, and a small product of 500.
    shapes = (6, 512, 128, 128), (500, 512, 128, 128), (500, 64, 48, 256)
    for runs, m, k, n in shapes[:1] if SMOKE else shapes:
        x = jax.random.normal(jax.random.key(2), (runs, m, k))
        y = jax.random.normal(jax.random.key(3), (runs, k, n))
        for precision in ("default", "highest"):
            took = seconds(product(precision), x, y, calls=10)
            row = {"what": "batched matmul", "shape": [runs, m, k, n], "precision": precision}
            report(**row, us=took * 1e6, tflops=2 * runs * m * k * n / took / 1e12)
    number, add = jnp.zeros(()), jax.jit(lambda x: x + 1)
    report(what="launch of a tiny program", us=seconds(add, number, calls=200) * 1e6)
    began = time.perf_counter()
    for _ in range(100):
        float(add(number))
    report(what="launch, wait, fetch a number", us=(time.perf_counter() - began) / 100 * 1e6)


def throughput(arguments: argparse.Namespace) -> None:
    """Seconds of an epoch of R runs, images a second, launches, memory."""
    use_precision(arguments.precision)
    about = {"label": arguments.label, "recipe": arguments.recipe}
    try:
        variants.apply(arguments.change)
    except LookupError as error:
        report(skipped=str(error), **about)
        return
    for count in map(int, arguments.runs.split(",")):
        try:
            _throughput(library.make_job(arguments.recipe, count), arguments, about)
        except Exception as error:  # the other sizes are still worth a try
            report(runs=count, error=f"{type(error).__name__}: {str(error)[:300]}", **about)


def forms(arguments: argparse.Namespace) -> None:
    """Throughput of the library's forms beside others: RECIPE:RUNS:CHANGE each."""
    for case in arguments.cases:
        recipe, runs, change = case.split(":")
        variants.apply([change])
        about = {"label": change, "recipe": recipe}
        try:
            _throughput(library.make_job(recipe, int(runs)), arguments, about)
        except Exception as error:  # the other cases are still worth a try
            report(runs=int(runs), error=f"{type(error).__name__}: {str(error)[:300]}", **about)


def networks(arguments: argparse.Namespace) -> None:
    """Throughput of networks on larger images: NETWORK:SIZE:CHANNELS:RUNS:CHANGE each."""
    for case in arguments.cases:
        network, size, channels, runs, change = case.split(":")
        variants.apply([change])
        about = {"label": change, "network": network, "size": int(size), "channels": int(channels)}
        try:
            job = library.make_image_job(network, int(size), int(channels), int(runs))
            _throughput(job, arguments, about)
        except Exception as error:  # the other cases are still worth a try
            report(runs=int(runs), error=f"{type(error).__name__}: {str(error)[:300]}", **about)


def _throughput(job: library.Job, arguments: argparse.Namespace, about: dict[str, Any]) -> None:
    count, per_call = len(job.runs.key), arguments.epochs_per_call
    made = library.compile_job(job, vmap_size=arguments.vmap_size, epochs_per_call=per_call)
    states, times = made.init(*made.arguments, None), []
    for _ in range(arguments.calls + 1):
        jax.block_until_ready(states)
        began = time.perf_counter()
        states, history = made.train(states, *made.arguments)
        losses = library.losses_of(history)
        times.append(time.perf_counter() - began)
    epoch = float(np.median(times[1:])) / per_call
    images = sum(map(len, library.train_rows(job)))
    memory, flops = made.executable.memory_analysis(), library.training_flops(job)
    report(
        **about,
        runs=count,
        vmap_size=made.vmap_size,
        precision=arguments.precision,
        epochs_per_call=per_call,
        compile_s=made.seconds,
        first_call_s=times[0],
        epoch_s=epoch,
        images_per_s=images / epoch,
        whole_runs_per_s=count / (epoch * job.epochs),
        tflops=images / epoch * flops / 1e12 if flops else None,
        launches_a_step=hlo.largest(hlo.loops(hlo.parse(made.executable.as_text())))["launches"],
        argument_MB=memory.argument_size_in_bytes / 1e6,
        temp_MB=memory.temp_size_in_bytes / 1e6,
        peak_GB=peak_gigabytes(),
        loss=float(losses[:, -1].mean()),
        finite=bool(np.isfinite(losses).all()),
    )
    if arguments.evaluate:
        times = []
        for _ in range(2):
            began = time.perf_counter()
            jax.block_until_ready(made.evaluate(states, *made.arguments))
            times.append(time.perf_counter() - began)
        seconds = {"first_s": times[0], "again_s": times[1]}
        report(what="evaluate", **about, runs=count, **seconds, peak_GB=peak_gigabytes())


def accuracy(arguments: argparse.Namespace) -> None:
    """Five folds of a whole recipe; the project's README has the CPU's accuracies."""
    use_precision(arguments.precision)
    job = library.make_job(arguments.recipe, 5, seed=arguments.seed)
    epochs = arguments.epochs or job.epochs
    began = time.perf_counter()
    scores = library.cross_validate(job, epochs=epochs, epochs_per_call=arguments.epochs_per_call)
    report(
        recipe=arguments.recipe,
        precision=arguments.precision,
        seed=arguments.seed,
        epochs=epochs,
        mean=float(scores.accuracy.mean()),
        sd=float(scores.accuracy.std()),
        accuracy=scores.accuracy.tolist(),
        test_loss=float(scores.loss.mean()),
        last_loss=float(scores.last_loss.mean()),
        seconds=scores.seconds,
        wall_s=time.perf_counter() - began,
    )


def parity() -> None:
    """The same steps on the GPU and on its host's CPU: how far apart are losses and weights?"""
    if not SMOKE:
        jax.config.update("jax_platforms", "cuda,cpu")
    steps = 3 if SMOKE else 36
    for recipe in ("notebook",) if SMOKE else library.RECIPES:
        job = library.make_job(recipe, 1)
        with jax.default_matmul_precision("highest"):
            losses, weights = library.train_alone(job, jax.devices("cpu")[0], steps)
        for precision in ("default",) if SMOKE else ("default", "highest"):
            with jax.default_matmul_precision(precision):
                there, weights_there = library.train_alone(job, jax.devices()[0], steps)
            report(
                recipe=recipe,
                precision=precision,
                steps=steps,
                first_loss_apart=float(abs(there[0] - losses[0])),
                loss_apart=float(np.abs(there - losses).max()),
                weight_apart=float(np.abs(weights_there - weights).max()),
            )


def peers(arguments: argparse.Namespace) -> None:
    """PyTorch on the same folds: fold by fold, and all at once by torch.func."""
    if importlib.util.find_spec("torch") is None:
        report(skipped="PyTorch is not installed")
        return
    import gpu_peers

    gpu_peers.run(arguments.which, report, smoke=SMOKE)


def profile() -> None:
    """Which kernels an epoch spends its time in."""
    cases = ("notebook", 5), ("notebook", 500), ("strong", 500)
    for recipe, count in cases[:1] if SMOKE else cases:
        made = library.compile_job(library.make_job(recipe, count))
        states = made.init(*made.arguments, None)
        states, _ = made.train(states, *made.arguments)
        jax.block_until_ready(states)
        folder = WORK / f"trace_{recipe}_{count}"
        with jax.profiler.trace(str(folder)):
            began = time.perf_counter()
            states, history = made.train(states, *made.arguments)
            library.losses_of(history)
            wall = time.perf_counter() - began
        for file in folder.glob("plugins/profile/*/*.trace.json.gz"):
            events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
            report(recipe=recipe, runs=count, wall_ms=wall * 1e3, **_kernels(events))
        del states, history, made


def _kernels(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a trace's events, what ran on the streams of a GPU."""
    names = {  # of processes by number, and of threads by process and number
        (each["pid"], each.get("tid") if each["name"] == "thread_name" else None): each["args"]
        for each in events
        if each.get("name") in ("process_name", "thread_name")
    }

    def named(pid: Any, tid: Any = None) -> str:
        return str(names.get((pid, tid), {}).get("name", "")).lower()

    took: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    spans: list[tuple[float, float]] = []
    for each in events:
        on_device = "gpu" in named(each.get("pid")) or "device" in named(each.get("pid"))
        if each.get("ph") == "X" and on_device and "stream" in named(each["pid"], each["tid"]):
            took[each["name"]] += each["dur"]
            counts[each["name"]] += 1
            spans.append((each["ts"], each["ts"] + each["dur"]))
    busy = sum(took.values())
    return {
        "kernels": sum(counts.values()),
        "busy_ms": busy / 1e3,
        "span_ms": (max(b for _, b in spans) - min(a for a, _ in spans)) / 1e3 if spans else None,
        "top": [
            {
                "kernel": name[:70],
                "us": round(us, 1),
                "fraction": round(us / busy, 3),
                "n": counts[name],
            }
            for name, us in took.most_common(14)
        ],
    }


def script(*options: str) -> list[str]:
    """The command line of the project's own script."""
    return library.script(*options, data=library.data_source())


def whole_job() -> None:
    """cross_validate.py as a user runs it: training, refit, checkpoints, figures, report."""
    few, folder = (["--epochs", "3"] if SMOKE else []), WORK / "whole_job"
    began = time.perf_counter()
    done = subprocess.run(script("--output-dir", str(folder), *few))
    report(wall_s=time.perf_counter() - began, rc=done.returncode)
    if done.returncode:
        sys.exit(done.returncode)
    results = json.loads((folder / "results.json").read_text())
    report(results={k: v for k, v in results.items() if len(json.dumps(v)) < 600})


def resume(*modes: str) -> None:
    """Killed and resumed, beside uninterrupted: are all bits the same?

    Args:
        *modes: --compilation-cache, the same program; --no-compilation-cache, which compiles anew,
            where autotuning may choose other kernels.
    """
    few = ["--epochs", "5" if SMOKE else "30", "--checkpoint-every", "1" if SMOKE else "3"]
    whole = WORK / "whole"
    if not whole.exists():
        subprocess.run(script(*few, "--output-dir", str(whole)), check=True, stdout=sys.stderr)
    for cache in modes:
        folder = WORK / f"killed{cache}"
        command = script(*few, cache, "--output-dir", str(folder))
        killed = subprocess.Popen(command, stdout=sys.stderr)
        deadline = time.monotonic() + (300 if SMOKE else 60)
        while len(_saved(folder)) < 2 and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        epochs = _saved(folder)
        done = subprocess.run([*command, "--resume"], stdout=sys.stderr)
        row = {"mode": cache, "checkpoints_at_kill": epochs, "resumed_rc": done.returncode}
        report(**row, **({} if done.returncode else _apart(whole, folder)))


def _saved(folder: Path) -> list[int]:
    """The epochs of a folder's whole checkpoints."""
    found = (folder / "checkpoints").glob("[0-9]*")
    return sorted(int(each.name) for each in found if each.name.isdigit())


def _apart(one: Path, other: Path) -> dict[str, str]:
    """What differs between two outputs of cross_validate.py."""
    found = {}
    for name in ("history.npz", "predictions.npz"):
        with np.load(one / name) as a, np.load(other / name) as b:
            for key in sorted(set(a) | set(b)):
                if key not in a or key not in b or a[key].shape != b[key].shape:
                    found[f"{name}:{key}"] = "different"
                elif a[key].tobytes() == b[key].tobytes():
                    found[f"{name}:{key}"] = "same bits"
                elif a[key].dtype.kind in "fiu":
                    far = np.abs(a[key].astype(float) - b[key].astype(float)).max()
                    found[f"{name}:{key}"] = f"{far:.3g} apart"
                else:
                    found[f"{name}:{key}"] = "different"
    return found


def restore() -> None:
    """A checkpoint of the GPU, read on the CPU: nearly the same logits of fold 1's test rows."""
    again, saved = library.predict_again(WORK / "whole", library.data_source())
    report(
        platform=jax.default_backend(),
        rows=len(saved),
        logits_apart=float(np.abs(again - saved).max()),
        same_class=float((again.argmax(-1) == saved.argmax(-1)).mean()),
    )


def tests() -> None:
    """The tests of one device's arithmetic. Their tolerances are float32's, so TF32 is off."""
    os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several processes share the card
    if not SMOKE:
        os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"  # quicker to compile
    files = [f"tests/{name}.py" for name in (["test_optimizers"] if SMOKE else TESTS)]
    # Warnings are no failures: another JAX may have some that the project has not met.
    options = "-q -p no:cacheprovider -o filterwarnings=default -o addopts= --no-header --tb=line"
    workers = ["-n", "2" if SMOKE else str(max((os.cpu_count() or 4) - 2, 2))]
    command = [sys.executable, "-m", "pytest", "-v", *files, *options.split(), *workers]
    began, lines = time.monotonic(), []
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    for line in running.stdout or ():  # as they come: a step that is stopped has said this much
        print(f"{time.monotonic() - began:.0f} s", line.rstrip(), file=sys.stderr, flush=True)
        lines.append(line.rstrip())
    counts = [line for line in lines if re.search(r"\d (passed|failed|error)", line)]
    failed = [line.split()[1] for line in lines if line.startswith("FAILED ")]
    report(rc=running.wait(), summary=counts[-1:] or lines[-3:], failed=failed)


def main() -> None:
    """Runs a step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    steps = parser.add_subparsers(dest="step", required=True)

    def add(name: str, function: Callable[..., None]) -> argparse.ArgumentParser:
        step = steps.add_parser(name, help=(function.__doc__ or "").split("\n")[0])
        step.set_defaults(function=function)
        return step

    plain = {
        "env": environment,
        "ceilings": ceilings,
        "parity": parity,
        "profile": profile,
        "whole_job": whole_job,
        "resume": functools.partial(resume, "--compilation-cache"),
        "resume_anew": functools.partial(resume, "--no-compilation-cache"),
        "restore": restore,
        "tests": tests,
    }
    for name, function in plain.items():
        add(name, function)
    step = add("throughput", throughput)
    step.add_argument("recipe", choices=library.RECIPES)
    step.add_argument("runs", help="such as 5,50,500")
    step.add_argument("--label", default="")
    step.add_argument("--change", action="append", default=[], choices=list(variants.CHANGES))
    step.add_argument("--precision")
    step.add_argument("--vmap-size", type=int)
    step.add_argument("--epochs-per-call", type=int, default=1)
    step.add_argument("--calls", type=int, default=3, help="timed ones")
    step.add_argument("--no-evaluate", dest="evaluate", action="store_false")
    step = add("forms", forms)
    step.add_argument("cases", nargs="+", metavar="RECIPE:RUNS:CHANGE")
    step.set_defaults(precision=None, vmap_size=None, epochs_per_call=1, calls=2, evaluate=False)
    step = add("networks", networks)
    step.add_argument("cases", nargs="+", metavar="NETWORK:SIZE:CHANNELS:RUNS:CHANGE")
    step.set_defaults(precision=None, vmap_size=None, epochs_per_call=1, calls=2, evaluate=False)
    step = add("accuracy", accuracy)
    step.add_argument("recipe", choices=library.RECIPES)
    step.add_argument("--precision")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--epochs", type=int, help="default: the recipe's")
    step.add_argument("--epochs-per-call", type=int, default=1)
    add("peers", peers).add_argument("which", choices=["eager", "compile"])
    arguments = parser.parse_args()
    if arguments.step in plain:
        arguments.function()
    else:
        arguments.function(arguments)


if __name__ == "__main__":
    main()
