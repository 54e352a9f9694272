"""The network, layer by layer, as the Flax module itself reports it.

    python experiments/architecture.py
    python experiments/architecture.py --recipe strong

It prints each layer's output shape, parameters and floating-point operations, as Keras's
``summary`` does (without the operations), and writes them to ``report.html`` and ``results.json``.
The notebook's network has 102,794 parameters.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

import digits_jax as dj
from common import command_line, console, options, startup, tasks
from common.output import Output
from common.tables import Table
from report import Report


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folder):
    """The options of the command line."""

    data: str = "auto"
    """Rows, whose images the network takes: auto (the cached download, else UCI, else bundled),
    uci, bundled, or the path of a CSV in UCI's layout."""
    recipe: Literal["notebook", "strong"] = "notebook"
    """Recipe whose network it is: the notebook's, or that of the most accurate recipe here."""
    width: float = 1.0
    """Factor of the features of every layer but the last."""
    seed: int = 0
    """Seed of the initial weights whose standard deviation is shown."""


def main(config: Config) -> None:
    """Reads the module, shows and writes."""
    options.seed(seed=config.seed)
    options.positive(width=config.width)
    options.require(config.width <= 32, f"--width must be at most 32, not {config.width:g}")
    output = Output(config, script="architecture")
    startup.start_jax(compilation_cache=False)
    import jax

    from digits_jax.networks import linen_module

    network: Any = linen_module(dj.recipe_by_name(config.recipe).recipe.network)
    network = network.clone(width=config.width)
    least = min(itertools.chain(*network.stages, network.dense_features))
    options.require(
        round(least * config.width) >= 1,
        f"--width {config.width:g} leaves a layer of {least} features with none; take a larger one",
    )
    dataset = tasks.load_digits(config.data)
    output.claim()
    layers = dj.layer_table(network, dataset.images.shape[1:])
    quick = {"xla_backend_optimization_level": 0}  # it runs once: not worth seconds of compiling
    init = jax.jit(network.init, compiler_options=quick)
    variables = init(jax.random.key(config.seed), dataset.images[:1])
    trainable = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    others = sum(leaf.size for leaf in jax.tree.leaves(variables)) - trainable
    bytes_ = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    spreads = {
        name: float(leaves["kernel"].std())
        for name, leaves in variables["params"].items()
        if "kernel" in leaves
    }
    flops = sum(layer.flops for layer in layers)
    rows = [
        (
            f"{layer.name} ({layer.kind})",
            (None, *layer.output_shape),
            f"{layer.parameters:,}",
            f"{layer.flops:,}",
            f"{spreads[layer.name]:.3f}" if layer.name in spreads else "",
        )
        for layer in layers
    ]
    table = Table(
        f"{type(network).__name__}, images {dataset.images.shape[1:]}",
        ("layer (kind)", "output shape", "parameters", "FLOPs", "initial sd"),
        rows,
        "None in a shape is the batch, as in Keras.",
        [("total", "", f"{trainable + others:,}", f"{flops:,}", "")],
    )
    table.show()
    memory = f"{bytes_ / 1024:.2f} KiB"
    console.say(
        f"parameters {trainable + others:,} ({memory}): trainable {trainable:,}, "
        f"others {others:,}\nFLOPs of one image, forward: {flops:,}; two for a multiply-add of a "
        "kernel, none for biases, activations and pools"
    )
    results = {
        "layers": [{**layer._asdict(), "initial_sd": spreads.get(layer.name)} for layer in layers],
        "parameters": {"total": trainable + others, "trainable": trainable, "others": others},
        "bytes": bytes_,
        "flops": flops,
    }
    page = Report("The network, layer by layer")
    page.headline("Parameters", f"{trainable + others:,}", f"{trainable:,} are trainable")
    page.headline("FLOPs of an image", f"{flops:,}", "forward; of kernels alone")
    page.headline("Memory", memory, "of the parameters")
    page.table(*table)
    output.finish(results, {}, page, data=dataset.provenance)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
