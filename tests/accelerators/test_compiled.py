"""The programs for platforms that the tests don't run on: exported for all, compiled for two.

Compiling for a TPU and an NVIDIA GPU needs XLA's compilers for them, though no device. It happens
in processes of its own, by the interpreter that ``DIGITS_JAX_AOT_PYTHON`` names, else by that of
the environment ``.aot``, which ``make_environment.sh`` makes. All other tests here always run.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any, NamedTuple

import aot
import hlo
import jax
import jax.export
import library
import pytest

PROGRAMS = ("init", "train", "evaluate")
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
COMPILERS = {"tpu": ("libtpu",), "cuda": ("jax_cuda12_plugin", "jax_cuda13_plugin")}

# ------------------------------------------------------------------------------- exported programs


@pytest.fixture(scope="module", params=[*library.RECIPES, "own network"])
def plan(request: pytest.FixtureRequest) -> library.Plan:
    """Of two runs of a recipe on a few rows, all on one device, in accelerators' operations.

    Those of a CPU are lowered by all other tests.
    """
    own = request.param == "own network"
    job = library.make_job("notebook" if own else request.param, 2, data="bundled", rows=200)
    job = library.with_an_own_network(job) if own else job
    return library.plan(job, jax.devices()[:1], vmap_size=2, platform="tpu")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_lowers_for_every_platform(plan: library.Plan, name: str) -> None:
    program = plan.programs[name]
    exported = jax.export.export(program.jitted(), platforms=PLATFORMS)(*program.arguments)
    assert exported.platforms == PLATFORMS
    expected = jax.tree.leaves(jax.eval_shape(program.function, *program.arguments))
    assert [(each.shape, each.dtype) for each in exported.out_avals] == [
        (each.shape, each.dtype) for each in expected
    ]


def test_a_program_that_a_platform_lacks_does_not_export() -> None:
    """So the tests above can fail."""

    def on_a_cpu_alone(x: jax.Array) -> Any:
        return jax.lax.platform_dependent(x, cpu=lambda x: x + 1)

    with pytest.raises(NotImplementedError, match="tpu"):
        jax.export.export(jax.jit(on_a_cpu_alone), platforms=PLATFORMS)(1.0)


# ------------------------------------------------------------------------------- compiled programs


def test_the_training_program_here_is_the_one_that_the_library_compiles() -> None:
    job = library.with_a_small_network(library.make_job("notebook", 4, data="bundled", rows=200))
    plan = library.plan(job, vmap_size=2)
    program = plan.programs["train"]
    here = program.jitted().lower(*program.arguments).compile()
    there = library.compile_job(job, vmap_size=2).executable
    one, other = (aot.measured(each, job.inputs.shape) for each in (here, there))
    assert one == other
    assert one["step"]["launches"] > 10
    assert one["alias_MB"] > 0.9 * one["output_MB"]  # small states beside their history


class Budget(NamedTuple):
    """What a program of six runs may take on a device, by its compiler's estimates.

    Attributes:
        step: of training: million cycles on a TPU, launches on a GPU.
        train: temporary memory, MB.
        evaluate: temporary memory, MB.
    """

    step: float
    train: float
    evaluate: float


# The compilers say 0.270 and 0.285 million cycles, on v6e 0.268 and 0.265, 73 and 104 launches; of
# memory 2.6 and 0, 5.0 and 0, 18 and 7, 45 and 87 MB.
BUDGETS = {
    ("tpu", "v5e:2x2", "notebook"): Budget(0.29, 3, 1),
    ("tpu", "v5e:2x2", "strong"): Budget(0.30, 6, 1),
    ("tpu", "v6e:2x2", "notebook"): Budget(0.29, 3, 1),
    ("tpu", "v6e:2x2", "strong"): Budget(0.28, 6, 1),
    ("cuda", "h100", "notebook"): Budget(76, 19, 8),
    ("cuda", "h100", "strong"): Budget(108, 47, 91),
}


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "topology", "recipe"), BUDGETS)
def test_six_runs_compile_within_budget(platform: str, topology: str, recipe: str) -> None:
    programs = ("--programs", ",".join(PROGRAMS))
    rows = _compiled(platform, recipe, "6", "--topology", topology, *programs)
    init, train, evaluate = rows
    assert [row["program"] for row in rows] == list(PROGRAMS)
    assert [row["collectives"] for row in rows] == [[]] * 3
    assert [row["copies_of_the_data"] for row in rows] == [[]] * 3
    assert train["alias_MB"] > 0.99 * train["output_MB"]
    step, budget = train["step"], BUDGETS[platform, topology, recipe]
    assert (step["cycles"] / 1e6 if platform == "tpu" else step["launches"]) <= budget.step
    assert train["temp_MB"] <= budget.train
    assert evaluate["temp_MB"] <= budget.evaluate


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "topology", "runs", "devices"),
    [("tpu", "v5e:16x16", 1024, 256), ("cuda", "h100", 64, 8)],
)
def test_many_devices_train_without_communication(
    platform: str, topology: str, runs: int, devices: int
) -> None:
    options = ["--topology", topology]
    options += ["--devices", str(devices)] if platform == "cuda" else []
    (train,) = _compiled(platform, "notebook", str(runs), *options)
    assert (train["devices"], train["runs_per_device"]) == (devices, runs // devices)
    assert train["collectives"] == []
    assert train["alias_MB"] > 0.99 * train["output_MB"]


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_of_one_host_train_without_communication(devices: int) -> None:
    """On a CPU's devices, as many runs on each."""
    job = library.make_job("notebook", 2 * devices, data="bundled", rows=200)
    plan = library.plan(library.with_a_small_network(job), jax.devices()[:devices], vmap_size=2)
    assert (plan.mesh.size, plan.runs_per_device) == (devices, 2)
    for name in ("train", "evaluate"):
        program = plan.programs[name]
        text = program.jitted().lower(*program.arguments).compile().as_text()
        assert hlo.collectives(text) == []


def _compiled(platform: str, *options: str) -> list[dict[str, Any]]:
    """What aot.py prints; skips where there is no compiler for the platform."""
    here = library.ROOT / "tests/accelerators"
    python = os.environ.get("DIGITS_JAX_AOT_PYTHON")
    if python is None:
        python = os.fspath(library.ROOT / ".aot/bin/python")
        if not os.path.exists(python):
            pytest.skip("no compilers: `bash tests/accelerators/make_environment.sh` gets them")
    names = COMPILERS[platform]
    find = f"from importlib.util import find_spec; print(*filter(find_spec, {names}))"
    if not subprocess.run([python, "-c", find], capture_output=True, check=True).stdout.strip():
        pytest.skip(f"{python} has no compiler for {platform}: none of {', '.join(names)}")
    done = subprocess.run(
        [python, os.fspath(here / "aot.py"), platform, *options, "--data", "bundled"],
        env={**os.environ, "PYTHONPATH": os.fspath(library.ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)  # pytest -rA shows it
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# ---------------------------------------------------------------------------------- the HLO reader

HLO = """HloModule jit_f, is_scheduled=true

%fused (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %twice = f32[4,8]{1,0} add(%p, %p)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %fusion.1 = f32[4,8]{1,0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/add"}, \
backend_config={"estimated_cycles":"120"}
  %sums = f32[4,8]{1,0} all-reduce-start(%fusion.1), to_apply=%sum
  %done = f32[4,8]{1,0} all-reduce-done(%sums)
  %halves = bf16[4,8]{1,0} custom-call(%done), custom_call_target="halve"
  ROOT %out = (s32[], f32[4,8]{1,0}) tuple(%i, %done)
}

%condition (state.1: (s32[], f32[4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  ROOT %copy = f32[4,8]{1,0} copy(%result)
}
"""


def test_the_reader_finds_loops_and_what_they_launch() -> None:
    loops = {loop["loop"]: loop for loop in hlo.loops(hlo.parse(HLO))}
    assert loops[""]["kinds"] == {"copy": 1}
    assert loops["/while/condition"]["kinds"] == {"compare": 1}
    step = loops["/while"]
    assert step == hlo.largest(list(loops.values()))
    assert (step["times"], step["launches"], step["cycles"]) == (7, 3, 120)
    assert step["kinds"] == {"fusion:kLoop": 1, "all-reduce-start": 1, "custom-call:halve": 1}


def test_the_reader_counts_bytes_and_names_sources() -> None:
    found = {each.name: each for _, _, each in hlo.launches(hlo.parse(HLO))}
    assert found["fusion.1"].source == "jit(f)/add"
    assert found["fusion.1"].written == 4 * 8 * 4
    assert found["halves"].written == 4 * 8 * 2
    assert found["loop"].written == 4 + 4 * 8 * 4
    assert found["copy"].cycles is None


def test_the_reader_finds_communication() -> None:
    assert hlo.collectives(HLO) == ["all-reduce"]
    assert hlo.collectives(HLO.replace("all-reduce", "custom")) == []
