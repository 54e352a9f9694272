"""Which choices make the strong recipe better than the notebook's? One change at a time, both ways.

    python experiments/ablate.py
    python experiments/ablate.py --repeats 4 --epochs 20

The notebook's recipe with one of the strong recipe's choices each, and the strong recipe without
one each, all on the same folds. Variants that share a network, an optimizer and an augmentation
train in one program; the others one program after another. All train for the same number of epochs.
It writes ``report.html``, ``results.json`` (last, and whole) and ``ablation.png``.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from common import command_line, console, options, startup
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    from digits_jax import Dataset, Hyperparameters, NamedRecipe, Recipe
    from digits_jax.splits import Split


# What differs between the recipes: the fields that change hands together, by where they are.
CHANGES: dict[str, tuple[str, ...]] = {
    "pixels in 0 to 1": ("network.pixel_scale",),
    "two convolutions a stage": ("network.conv_features",),
    "no hidden dense layers": ("network.dense_features",),
    "batch normalisation": ("network.batch_norm",),
    "GELU": ("network.conv_activation",),
    "no dropout": ("hyperparameters.dropout_rate",),
    "augmentation": ("recipe.augment",),
    "five views of a test image": ("recipe.views",),
    "label smoothing": ("hyperparameters.label_smoothing",),
    "one-cycle learning rate": ("recipe.optimizer", "hyperparameters.learning_rate"),
    "weight decay": ("hyperparameters.weight_decay",),
    "averaged weights": ("hyperparameters.average_decay",),
    "batches of 64": ("recipe.batch_size",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Digits):
    """The options of the command line."""

    folds: int = 5
    """Parts of the rows; each is the test set of one run."""
    repeats: int = 1
    """Times that the rows are split anew."""
    epochs: int | None = None
    """Passes over the training rows, of every variant. Default: the strong recipe's."""
    seed: int = 0
    """Of the splits, initial weights, shuffles, dropout and augmentation."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/ablate/<date>-<time>."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figure as SVG."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but the result."""


class Variant(NamedTuple):
    """A recipe in one piece: the static part and the hyperparameters."""

    recipe: Recipe
    hyperparameters: Hyperparameters


def main(config: Config) -> None:
    """Trains, compares, shows and writes."""
    options.positive(epochs=config.epochs, repeats=config.repeats)
    options.require(config.folds >= 2, f"--folds must be at least 2, not {config.folds}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    options.seed(seed=config.seed)
    output = Output(config.output_dir, script="ablate")
    startup.start_jax(compilation_cache=config.compilation_cache)
    import digits_jax as dj

    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    try:
        splits = dj.kfold_splits(
            dataset.labels, config.folds, seed=config.seed, repeats=config.repeats
        )
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    epochs = dj.recipe_by_name("strong", epochs=config.epochs).epochs
    recipes = variants(epochs)
    smallest = min(recipe.recipe.batch_size for recipe in recipes.values())
    options.countable(epochs, len(dataset.labels), smallest)
    output.claim()
    scores: dict[str, Any] = {}
    for names in grouped(recipes).values():
        started = time.perf_counter()
        chosen = [recipes[name] for name in names]
        accuracies = train(dataset, chosen, splits, epochs=epochs, seed=config.seed)
        scores |= dict(zip(names, accuracies, strict=True))
        console.notes.print(
            f"{len(scores)}/{len(recipes)} {', '.join(names)}: "
            f"{time.perf_counter() - started:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    report(config, dataset, splits, epochs, scores, output)


def variants(epochs: int) -> dict[str, Variant]:
    """Both recipes, the notebook's with each change, and the strong one without each, by name."""
    import digits_jax as dj

    notebook, strong = (
        complete(dj.recipe_by_name(name, epochs=epochs)) for name in ("notebook", "strong")
    )
    recipes = {"notebook": notebook, "strong": strong}
    for name, fields in CHANGES.items():
        recipes[variant_name("notebook", name)] = swap(notebook, strong, fields)
        recipes[variant_name("strong", name)] = swap(strong, notebook, fields)
    return recipes


def variant_name(base: str, change: str) -> str:
    """The name of a variant; where the strong recipe takes something away, what comes back."""
    if base == "notebook":
        return f"{base} + {change}"
    back = change.removeprefix("no ")
    return f"{base} - {change}" if back == change else f"{base} + {back}"


def complete(named: NamedRecipe) -> Variant:
    """The recipe with every hyperparameter given, so that all variants have the same tree."""
    from digits_jax.networks import NetworkWithHyperparameters, linen_module
    from digits_jax.recipes.strong import average_decay

    recipe, hyperparameters = named.recipe, named.hyperparameters
    network: Any = linen_module(recipe.network)
    if hyperparameters.dropout_rate is None:
        hyperparameters = hyperparameters._replace(dropout_rate=network.dropout_rate)
    if hyperparameters.average_decay is None:
        hyperparameters = hyperparameters._replace(
            average_decay=0.0
        )  # the average is then the last weights
    network = network.clone(dropout_rate=0.25)  # replaced by the hyperparameter, which is traced
    traced: Any = NetworkWithHyperparameters(network)
    recipe = dataclasses.replace(recipe, network=traced, average=average_decay)
    return Variant(recipe, hyperparameters)


def swap(of: Variant, other: Variant, fields: tuple[str, ...]) -> Variant:
    """``of`` with the fields that ``other`` has."""
    from digits_jax.networks import linen_module

    for field in fields:
        where, name = field.split(".")
        if where == "network":
            value: Any = getattr(linen_module(other.recipe.network), name)
            module = linen_module(of.recipe.network).clone(**{name: value})
            network: Any = dataclasses.replace(of.recipe.network, network=module)
            of = of._replace(recipe=dataclasses.replace(of.recipe, network=network))
        elif where == "recipe":
            changed: Any = {name: getattr(other.recipe, name)}
            of = of._replace(recipe=dataclasses.replace(of.recipe, **changed))
        else:
            of = of._replace(
                hyperparameters=of.hyperparameters._replace(
                    **{name: getattr(other.hyperparameters, name)}
                )
            )
    return of


def grouped(variants: dict[str, Variant]) -> dict[Recipe, list[str]]:
    """Names of the variants that share their static part, and so one program."""
    groups: dict[Recipe, list[str]] = {}
    for name, variant in variants.items():
        groups.setdefault(variant.recipe, []).append(name)
    return groups


def train(
    dataset: Dataset, variants: list[Variant], splits: Split, *, epochs: int, seed: int
) -> Any:
    """The test accuracies [variants, runs] of variants that share their static part.

    Equal keys on equal folds: variants differ by nothing but what they are.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import digits_jax as dj

    one = [dj.make_runs(splits, each.hyperparameters, seed=seed) for each in variants]
    hyperparameters = jax.tree.map(
        lambda *values: np.concatenate(values), *(each.hyperparameters for each in one)
    )
    keys = jnp.concatenate([each.key for each in one])
    result = dj.cross_validate(
        dataset.data,
        dj.Run(dj.stack_splits(*[splits] * len(variants)), hyperparameters, keys),
        recipe=variants[0].recipe,
        epochs=epochs,
        epochs_per_call=epochs,
        checkpoint_every=epochs,
    )
    return result.scores["accuracy"].reshape(len(variants), -1)


def report(
    config: Config,
    dataset: Dataset,
    splits: Split,
    epochs: int,
    scores: dict[str, Any],
    output: Output,
) -> None:
    """The table, the figure, the files; ``results.json`` last."""
    from rich.table import Table

    from digits_jax import corrected_resampled_ttest, plots, summarize
    from report import overviews

    sizes: dict[str, Any] = {
        "train_rows": float(splits.train_weights.sum(1).mean()),
        "test_rows": float(splits.test_weights.sum(1).mean()),
    }
    runs = f"{config.repeats} x {config.folds} folds"
    table = Table(title=f"One change at a time, {runs}, {epochs} epochs")
    for column in ("recipe", "accuracy (%)", "95 % interval", "difference (points)", "p"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    rows: list[dict[str, Any]] = []
    for base in ("notebook", "strong"):
        for name in (base, *(variant_name(base, change) for change in CHANGES)):
            accuracy = summary_json("accuracy", summarize(scores[name], **sizes))
            row = {"recipe": name, "accuracy": accuracy, "accuracies": scores[name]}
            low, high = accuracy["ci95"]
            cells = [f"{100 * accuracy['mean']:.2f}", f"{100 * low:.2f} to {100 * high:.2f}"]
            if name != base:
                test = corrected_resampled_ttest(scores[name], scores[base], **sizes)
                row["against"] = {
                    "recipe": base,
                    "difference": test.mean_difference,
                    "ci95": test.ci95,
                    "p_value": test.p_value,
                }
                cells += [f"{100 * test.mean_difference:+.2f}", f"{test.p_value:.3f}"]
            rows.append(row)
            table.add_row(name, *cells, end_section=name.endswith(list(CHANGES)[-1]))
    console.results.print(table)
    panels = {
        f"{base}: {100 * scores[base].mean():.2f} %": {
            row["recipe"].removeprefix(base): (
                row["against"]["difference"],
                *row["against"]["ci95"],
            )
            for row in rows
            if row.get("against", {}).get("recipe") == base
        }
        for base in ("notebook", "strong")
    }
    figure = plots.differences(panels, label="Points of accuracy, 95 % interval")
    results = {
        "experiment": "ablate",
        **describe(config, dataset.provenance),
        "epochs": epochs,
        "recipes": rows,
    }
    page = overviews.ablation(results, figure=figure)
    output.finish(results, {"ablation": figure}, page, svg=config.svg)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
