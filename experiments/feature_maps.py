"""What each layer makes of one image, what the first layer looks for, and which pixels matter.

    python experiments/feature_maps.py --checkpoint runs/cross_validate/DATE

Without ``--checkpoint`` it first trains a network for 20 epochs on all rows. It writes
``report.html``, ``results.json`` (whole), ``feature_maps.npz`` (all the arrays that are
drawn) and the figures ``feature_maps``, ``filters`` and ``saliency`` to the output folder; with
``--untrained`` also ``feature_maps_untrained``, the maps of the initial weights, and
``feature_maps_compared``.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro
from rich.markup import escape

import digits_jax as dj
from common import command_line, console, options, progress, startup, tasks, training
from common.drawing import plots
from common.output import Output
from common.tables import Table
from digits_jax.storage.errors import CheckpointError
from report import Report

if TYPE_CHECKING:
    import jax

Maps = dict[str, npt.NDArray[np.float32]]  # [H, W, F] by layer

MEMBER = ", member "  # in the name of a run, before its number
COMPARED = 16  # maps of a layer that are drawn above those of the untrained network: one row
ALTS = {
    "feature_maps": "Each map of each layer for this image.",
    "filters": "The first layer's filters.",
    "saliency": "The image, and the gradient of the predicted class's logit by its pixels.",
    "feature_maps_untrained": "Each map of each layer, of the untrained network.",
    "feature_maps_compared": "The first maps of each layer, trained above untrained.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Out, options.Digits):
    """The options of the command line."""

    index: int = 59
    """The row whose image goes through the network, counted from 0."""
    checkpoint: Path | None = None
    """The output folder of cross_validate.py or train.py, or its folder checkpoints. Default:
    train a network on all rows now."""
    run: str | None = None
    """Run of the checkpoint: its name, such as "fold 2" or refit, or its number, from 1. Default:
    the refit, or else the first run."""
    epochs: int = 20
    """Passes over the rows, where no checkpoint is given."""
    untrained: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Maps of the untrained network, too."""
    seed: int = 0
    """Seed of the training, where no checkpoint is given; and of the untrained network's weights,
    where the checkpoint doesn't name its own seed."""


def main(config: Config) -> None:
    """Loads or trains, looks inside, shows and writes."""
    options.seed(seed=config.seed)
    options.positive(epochs=config.epochs)
    options.require(config.index >= 0, "--index is counted from 0: a negative number names nothing")
    options.require(config.run is None or config.checkpoint is not None, "--run needs --checkpoint")
    output = Output(config, script="feature_maps")
    startup.start_jax(compilation_cache=config.compilation_cache)
    import jax

    dataset = tasks.load_digits(config.data)
    last = len(dataset.labels) - 1
    outside = f"--index {config.index} is out of range: the rows are 0 to {last}"
    options.require(config.index <= last, outside)
    network = dj.DigitsCNN()
    recipe = dj.Recipe(network=network)
    if config.checkpoint is None:
        options.countable(config.epochs, len(dataset.labels), recipe.batch_size)
        output.claim()
        state, run, model = train(config, dataset, recipe)
    else:
        state, run, model = load(config, dataset, recipe)
        output.claim()
    console.say(f"[bold]network[/] {escape(model['note'])}", console.notes)

    image, label = dataset.images[config.index], int(dataset.labels[config.index])
    logits, maps = look_inside(network, state, image)
    finite = bool(np.isfinite(logits).all())
    options.require(finite, "this network has diverged; choose another --run or --checkpoint")
    probabilities = np.asarray(jax.nn.softmax(logits))
    predicted = int(probabilities.argmax())
    gradient = saliency(state, image, predicted, recipe=recipe)
    kernel = np.asarray(state.params["conv_1"]["kernel"])
    probability = f"{probabilities[predicted]:.4f}"
    console.say(
        f"[bold]row {config.index}[/] class {label}, predicted {predicted} with probability "
        f"{probability}"
    )
    table_of(maps).show()

    figures = {
        "feature_maps": plots.feature_maps(image, maps),
        "filters": plots.filters(kernel),
        "saliency": plots.saliency(image, gradient, name=f"logit {predicted}"),
    }
    arrays = dict(maps)
    if config.untrained:
        # It runs once: not worth seconds of compiling.
        quick = {"xla_backend_optimization_level": 0}
        init = jax.jit(functools.partial(dj.init_state, recipe=recipe), compiler_options=quick)
        start = init(run, dj.Data(dataset.images[:1], dataset.labels[:1]))
        _, blind = look_inside(network, start, image)
        figures["feature_maps_untrained"] = plots.feature_maps(image, blind)
        figures["feature_maps_compared"] = plots.feature_maps(image, side_by_side(maps, blind))
        arrays |= {f"untrained_{name}": each for name, each in blind.items()}
    output.arrays("feature_maps.npz", image=image, filters=kernel, gradient=gradient, **arrays)
    results = {
        "network": model,
        "index": config.index,
        "class": label,
        "predicted": predicted,
        "probability": probabilities[predicted],
        "probabilities": probabilities,
        "layers": {name: each.shape for name, each in maps.items()},
    }
    page = Report(f"Row {config.index} inside the network", model["note"])
    page.headline("Class", str(label))
    page.headline("Predicted", str(predicted), f"with {probability}")
    for name, figure in figures.items():
        page.figure(name.replace("_", " ").capitalize(), figure, ALTS[name])
    rows = [(k, f"{each:.6f}") for k, each in enumerate(probabilities)]
    page.table("Probabilities", ("class", "probability"), rows)
    output.finish(results, figures, page, data=dataset.provenance, also=["feature_maps.npz"])


def train(
    config: Config, dataset: dj.Dataset, recipe: dj.Recipe
) -> tuple[dj.TrainState, dj.Run, dict[str, Any]]:
    """A network trained on all rows, its run, and a description of both."""
    note = f"trained now on all {len(dataset.labels)} rows, epochs: {config.epochs}"
    console.say(
        "no --checkpoint given: training a network quickly; cross_validate.py and train.py make "
        "better ones",
        console.notes,
    )
    runs = dj.make_runs(dj.refit_split(dataset.labels), seed=config.seed)
    with progress.Watch(1, rows=len(dataset.labels)) as watch:
        try:
            result = dj.cross_validate(
                dataset.data,
                runs,
                recipe=recipe,
                epochs=config.epochs,
                on_epoch=watch.on_epoch,
            )
        except dj.Interrupted as stop:
            raise console.Stopped(f"{stop}; nothing was saved", watch.signal or 2) from stop
    model = {"checkpoint": None, "run": "refit", "note": note}
    return dj.take_run(result.states, 0), dj.take_run(runs, 0), model


def load(
    config: Config, dataset: dj.Dataset, recipe: dj.Recipe
) -> tuple[dj.TrainState, dj.Run, dict[str, Any]]:
    """The state of one of the checkpoint's runs, the run as it began, and a description of both."""
    import jax

    assert config.checkpoint is not None
    folder = training.checkpoints_in(config.checkpoint)
    try:
        saved = dj.load_states(folder, recipe=recipe)
    except CheckpointError as error:
        another = "is of another recipe" in str(error)
        options.require(not another, f"only the notebook's network is drawn, not that of {folder}")
        raise
    states, identity = saved.states, saved.identity
    names = saved.names
    if config.run is None:
        number = len(names) - 1 if names[-1] == "refit" else 0
    else:
        number = training.find_run(names, config.run)
    state = dj.take_run(states, number)
    note = f"{names[number]} of {folder}, {int(state.step)} optimizer steps"
    # As make_runs derives it; where the initial weights come from, the split plays no part.
    seed = int(identity.get("seed", config.seed))
    run = dj.take_run(dj.make_runs(dj.refit_split(dataset.labels), seed=seed), 0)
    bases = list(dict.fromkeys(name.partition(MEMBER)[0] for name in names))
    base, _, member = names[number].partition(MEMBER)
    if base != "refit":
        run = run._replace(key=jax.random.fold_in(jax.random.key(seed), bases.index(base)))
    if int(member or 1) > 1:
        run = run._replace(key=jax.random.fold_in(run.key, int(member) - 1))
    return state, run, {"checkpoint": folder, "run": names[number], "note": note}


def look_inside(
    network: dj.DigitsCNN, state: dj.TrainState, image: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float32], Maps]:
    """Logits [K] of an image [H, W], and the maps of each conv and pool layer.

    The maps are what Flax captures on the way through the network.
    """
    import jax

    apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
    variables = {"params": state.params, **state.collections}
    logits, captured = apply(variables, image[np.newaxis])
    maps: Maps = {}
    for layer in dj.layer_table(network, image.shape):
        if layer.kind in ("Conv", "MaxPool"):
            (before,) = captured["intermediates"][layer.name]["__call__"]
            maps[layer.name] = np.asarray(network.conv_activation(before)[0])
    return np.asarray(logits[0]), maps


def saliency(
    state: dj.TrainState, image: npt.NDArray[Any], k: int, *, recipe: dj.Recipe
) -> npt.NDArray[np.float32]:
    """The gradient [H, W] of the logit of class k by the pixels of an image [H, W].

    Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks", 2013, arXiv:1312.6034.
    """
    import jax

    def logit(pixels: jax.Array) -> jax.Array:
        value: jax.Array = dj.predict(state, pixels[None], recipe=recipe)[0, k]
        return value

    return np.asarray(jax.jit(jax.grad(logit))(image.astype(np.float32)))


def side_by_side(trained: Maps, untrained: Maps) -> Maps:
    """The first maps of each layer, those of the untrained network below, by what they are."""
    pairs = {}
    for name, each in trained.items():
        cut = f", the first of {each.shape[-1]}" if each.shape[-1] > COMPARED else ""
        pairs[f"{name} trained{cut}"] = each[..., :COMPARED]
        pairs[f"{name} untrained{cut}"] = untrained[name][..., :COMPARED]
    return pairs


def table_of(maps: Maps) -> Table:
    """A row for each layer: shape, range, number of maps that the image leaves at zero."""
    rows = []
    for name, each in maps.items():
        height, width, count = each.shape
        silent = int((each.max(axis=(0, 1)) == 0).sum())
        size = f"{height} × {width}"
        rows.append((name, count, size, f"{each.mean():.3f}", f"{each.max():.3f}", silent))
    columns = ("layer", "maps", "height × width", "mean", "largest", "all zero")
    return Table("activations", columns, rows)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
