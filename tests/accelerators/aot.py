"""Compiles the library's programs for a TPU or a GPU that this machine does not have.

XLA's own compilers run on any CPU machine; ``make_environment.sh`` installs them. Nothing runs on
a device: memory, launches and cycles are the compilers' estimates. One JSON line for each program.

    .aot/bin/python tests/accelerators/aot.py tpu notebook 6
    .aot/bin/python tests/accelerators/aot.py tpu notebook 1024 --topology v5e:16x16
    .aot/bin/python tests/accelerators/aot.py cuda strong 500 --programs train,evaluate
    .aot/bin/python tests/accelerators/aot.py tpu strong 40 --change cpu-forms
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hlo
import jax
import library
import variants
from jax.experimental import topologies

# The fields of XLA's GpuTargetConfigProto. Whether whole loops may become CUDA graphs depends on
# the driver's version.
GPU = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: %(bandwidth)d l2_cache_size: %(l2)d clock_rate_ghz: 1.98
  device_memory_size: %(memory)d shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  driver_version: "13.0.0" runtime_version: "%(major)d.%(minor)d.0"
  compile_time_toolkit_version: "%(major)d.%(minor)d.0" dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: %(major)d minor: %(minor)d patch: 0 }
device_description_str: "%(name)s"
"""
GPUS = {
    "h100": {
        "bandwidth": 3352320000000,  # bytes a second
        "l2": 52428800,
        "memory": 84929347584,
        "name": "NVIDIA H100 80GB HBM3",
    },
    "h200": {
        "bandwidth": 4814000000000,
        "l2": 62914560,
        "memory": 150754820096,
        "name": "NVIDIA H200",
    },
}
DEFAULT_TOPOLOGY = {"tpu": "v5e:2x2", "cuda": "h100", "cpu": "cpu"}


def use_compilers_alone() -> None:
    """Keeps JAX from looking for devices; call it before JAX is asked for any."""
    jax.config.update("jax_platforms", "cpu")
    # Else a TPU's compiler asks a server of the cloud what machine this is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several processes, as in pytest -n


def described_devices(platform: str, topology: str, count: int) -> Sequence[Any]:
    """Devices to compile for; they exist as a description alone.

    Args:
        platform: tpu, cuda or cpu.
        topology: of TPUs, such as v5e:2x2, v4:2x2x1, v5p:2x2x1, v6e:2x2; of GPUs h100 or h200.
        count: of GPUs; a TPU's topology says how many there are.
    """
    if platform == "cpu":
        return jax.devices()[:1]
    if platform == "tpu":
        return topologies.get_topology_desc(topology, "tpu").devices
    newer = importlib.util.find_spec("jax_cuda13_plugin") is not None
    cuda = {"major": 13, "minor": 0} if newer else {"major": 12, "minor": 9}
    return topologies.get_topology_desc(
        "", "cuda", target_config=GPU % {**GPUS[topology], **cuda}, topology=f"1x1x{count}"
    ).devices


def measured(compiled: Any, images: tuple[int, ...]) -> dict[str, Any]:
    """What the compiler says of a program; memory is that of one device.

    Args:
        compiled: what ``lower().compile()`` gives.
        images: the shape of all images, [N, H, W].
    """
    memory, text = compiled.memory_analysis(), compiled.as_text()
    program = hlo.parse(text)
    # What a loop makes anew of all images, for each run or once. Inside of a fusion it is free.
    all_images = re.compile(rf"[\[,]{','.join(map(str, images))}\]")
    return {
        "argument_MB": memory.argument_size_in_bytes / 1e6,
        "output_MB": memory.output_size_in_bytes / 1e6,
        "alias_MB": memory.alias_size_in_bytes / 1e6,  # of the outputs: in donated arguments' place
        "temp_MB": memory.temp_size_in_bytes / 1e6,
        "code_MB": memory.generated_code_size_in_bytes / 1e6,
        "collectives": hlo.collectives(text),
        "copies_of_the_data": [
            each.name
            for loop, _, each in hlo.launches(program)
            if loop and each.opcode not in hlo.CALLS and all_images.search(each.type)
        ],
        "step": hlo.largest(hlo.loops(program)),
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("platform", choices=list(DEFAULT_TOPOLOGY))
    parser.add_argument("recipe", choices=library.RECIPES)
    parser.add_argument("runs", type=int)
    parser.add_argument("--topology", help="v5e:2x2, v4:2x2x1, v5p:2x2x1, v6e:2x2; h100, h200")
    parser.add_argument("--devices", type=int, default=1, help="GPUs")
    parser.add_argument("--data", help="default: $DIGITS_JAX_DATA, else bundled")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--vmap-size", type=int, help="runs side by side on a device; default: all")
    parser.add_argument("--epochs-per-call", type=int, default=1)
    parser.add_argument("--programs", default="train", help="of init,train,evaluate")
    parser.add_argument("--change", action="append", default=[], choices=list(variants.CHANGES))
    parser.add_argument("--precision", help="of matrix products, such as highest")
    parser.add_argument("--option", action="append", default=[], help="the compiler's, name=value")
    parser.add_argument("--hlo", type=Path, help="folder for the optimised HLO of each program")
    parser.add_argument("--dump", type=Path, help="folder for XLA's own dump: PTX, thunks")
    return parser.parse_args()


def main() -> None:
    """Compiles, and prints a JSON line for each program."""
    arguments = parse_arguments()
    use_compilers_alone()
    if arguments.precision:
        jax.config.update("jax_default_matmul_precision", arguments.precision)
    variants.apply(arguments.change)
    options: dict[str, Any] = dict(option.split("=", 1) for option in arguments.option)
    if arguments.dump:
        options["xla_dump_to"] = os.fspath(arguments.dump.resolve())
    topology = arguments.topology or DEFAULT_TOPOLOGY[arguments.platform]
    job = library.make_job(
        arguments.recipe, arguments.runs, data=arguments.data, batch_size=arguments.batch_size
    )
    plan = library.plan(
        job,
        described_devices(arguments.platform, topology, arguments.devices),
        vmap_size=arguments.vmap_size,
        epochs_per_call=arguments.epochs_per_call,
    )
    for name in arguments.programs.split(","):
        program, started = plan.programs[name], time.perf_counter()
        lowered = program.jitted().lower(*program.arguments)
        compiling = time.perf_counter()
        compiled = lowered.compile(options or None)
        row = {
            "program": name,
            "platform": arguments.platform,
            "topology": topology,
            "recipe": arguments.recipe,
            "runs": arguments.runs,
            "devices": plan.mesh.size,
            "runs_per_device": plan.runs_per_device,
            "vmap_size": plan.vmap_size,
            "change": arguments.change,
            "rows": len(job.targets),
            "jax": jax.__version__,
            "lower_s": compiling - started,
            "compile_s": time.perf_counter() - compiling,
            **measured(compiled, job.inputs.shape),
        }
        rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
        print(json.dumps(rounded), flush=True)
        if arguments.hlo:
            arguments.hlo.mkdir(parents=True, exist_ok=True)
            about = (topology.replace(":", "-"), arguments.recipe, str(arguments.runs), name)
            file = "_".join((*about, *arguments.change)) + ".hlo"
            (arguments.hlo / file).write_text(compiled.as_text())


if __name__ == "__main__":
    main()
