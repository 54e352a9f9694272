"""What does each change of a recipe do? Variants beside their base, all on the same folds.

    python experiments/ablate.py
    python experiments/ablate.py --repeats 4 --epochs 20
    python experiments/ablate.py --data mine.npz --recipe mine.py:variants

Without --recipe: the notebook's recipe with one of the strong recipe's choices each, and the strong
recipe without one each. Variants that share network, loss, optimizer and so on train in one
program; the others one program after another. It writes ``report.html``, ``results.json`` (last,
and whole) and ``ablation.png``.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from common import command_line, console, options, startup, tasks
from common.output import Output, describe, summary_json
from common.scores import scores_of
from common.tasks import Plan

if TYPE_CHECKING:
    import numpy as np

    from common.tasks import Task
    from digits_jax import Recipe, Split

Study = dict[str, dict[str, Plan]]  # variants by name, under the name of their base, itself first

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
class Config(options.Out, options.Data):
    """The options of the command line."""

    recipe: str | None = None
    """FILE.py:FUNCTION of yours, which takes (inputs, targets) and gives a dict: names with
    (Recipe, hyperparameters, epochs), the base first. Default: notebook and strong, on the
    digits."""
    folds: int = 5
    """Parts of the rows; each is the test set of one run."""
    repeats: int = 1
    """Times that the rows are split anew."""
    epochs: int | None = None
    """Passes over the training rows, of every variant. Default: the recipe's, or strong's."""
    seed: int = 0
    """Of the splits, initial weights, shuffles, dropout and augmentation."""


def main(config: Config) -> None:
    """Trains, compares, shows and writes."""
    options.positive(epochs=config.epochs, repeats=config.repeats)
    options.require(config.folds >= 2, f"--folds must be at least 2, not {config.folds}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    options.seed(seed=config.seed)
    output = Output(config.output_dir, script="ablate")
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    console.show_data(task.provenance)
    splits = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    study = make_study(config, task)
    plans = {name: plan for variants in study.values() for name, plan in variants.items()}
    output.claim()
    scores: dict[str, np.ndarray] = {}
    for names in grouped(plans).values():
        started = time.perf_counter()
        chosen = [plans[name] for name in names]
        values = train(task, chosen, splits, seed=config.seed)
        scores |= dict(zip(names, values, strict=True))
        console.notes.print(
            f"{len(scores)}/{len(plans)} {', '.join(names)}: {time.perf_counter() - started:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
    report(config, task, splits, study, scores, output)


def make_study(config: Config, task: Task) -> Study:
    """The variants of --recipe, or of notebook and strong."""
    if config.recipe is not None:
        own = tasks.load_variants(config.recipe, task, epochs=config.epochs)
        first = {scores_of(plan.recipe)[0].name for plan in own.values()}
        options.require(
            len(first) == 1,
            f"--recipe {config.recipe}: the variants' first scores are {', '.join(sorted(first))}; "
            "give all the same first metric, to compare them by",
        )
        return {next(iter(own)): own}
    is_digits = task.dataset is not None
    options.require(is_digits, "notebook and strong are of the digits: give your --recipe, too")
    import digits_jax as dj

    study = digits_study(dj.recipe_by_name("strong", epochs=config.epochs).epochs)
    for variants in study.values():
        for plan in variants.values():
            options.countable(plan.epochs, task.rows, plan.recipe.batch_size)
    return study


def digits_study(epochs: int) -> Study:
    """The notebook's recipe with each change, and the strong one without each."""
    notebook, strong = (complete(name, epochs) for name in ("notebook", "strong"))
    study = {"notebook": {"notebook": notebook}, "strong": {"strong": strong}}
    for change, fields in CHANGES.items():
        study["notebook"][f"notebook + {change}"] = swap(notebook, strong, fields)
        back = change.removeprefix("no ")  # where strong takes something away, it comes back
        without = f"strong - {change}" if back == change else f"strong + {back}"
        study["strong"][without] = swap(strong, notebook, fields)
    return study


def complete(name: str, epochs: int) -> Plan:
    """The recipe with every hyperparameter given, so that all variants have the same tree."""
    import digits_jax as dj
    from digits_jax.networks import linen_module
    from digits_jax.recipes.strong import average_decay

    recipe, h, epochs = dj.recipe_by_name(name, epochs=epochs)
    network: Any = linen_module(recipe.network)
    if h.dropout_rate is None:
        h = h._replace(dropout_rate=network.dropout_rate)
    if h.average_decay is None:
        h = h._replace(average_decay=0.0)  # the average is then the last weights
    # The module's own rate is replaced by the hyperparameter, which is traced.
    traced: Any = dj.NetworkWithHyperparameters(network.clone(dropout_rate=0.25))
    recipe = dataclasses.replace(recipe, network=traced, average=average_decay)
    return Plan(name, recipe, h, epochs)


def swap(of: Plan, other: Plan, fields: tuple[str, ...]) -> Plan:
    """``of`` with the fields that ``other`` has."""
    from digits_jax.networks import linen_module

    recipe, h = of.recipe, of.hyperparameters
    for field in fields:
        where, name = field.split(".")
        if where == "network":
            value = getattr(linen_module(other.recipe.network), name)
            module: Any = linen_module(recipe.network).clone(**{name: value})
            network: Any = dataclasses.replace(recipe.network, network=module)
            recipe = dataclasses.replace(recipe, network=network)
        elif where == "recipe":
            changed: Any = {name: getattr(other.recipe, name)}
            recipe = dataclasses.replace(recipe, **changed)
        else:
            h = h._replace(**{name: getattr(other.hyperparameters, name)})
    return of._replace(recipe=recipe, hyperparameters=h)


def grouped(plans: dict[str, Plan]) -> dict[tuple[Recipe, int, Any], list[str]]:
    """Names of the variants that share recipe, epochs and form of h, and so one program."""
    import jax

    groups: dict[tuple[Recipe, int, Any], list[str]] = {}
    for name, plan in plans.items():
        form = jax.tree.structure(plan.hyperparameters)
        groups.setdefault((plan.recipe, plan.epochs, form), []).append(name)
    return groups


def train(task: Task, plans: list[Plan], splits: Split, *, seed: int) -> np.ndarray:
    """The first score, [variants, runs], of variants that share one program.

    Equal keys on equal folds: variants differ by nothing but what they are.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    import digits_jax as dj

    plan = plans[0]
    one = [dj.make_runs(splits, each.hyperparameters, seed=seed) for each in plans]
    h = jax.tree.map(lambda *x: np.concatenate(x), *(each.hyperparameters for each in one))
    keys = jnp.concatenate([each.key for each in one])
    runs = dj.Run(dj.stack_splits(*[splits] * len(plans)), h, keys)
    try:
        result = dj.cross_validate(
            task.data, runs, recipe=plan.recipe, epochs=plan.epochs, epochs_per_call=plan.epochs
        )
    except Exception as error:
        mistake = plan.mistake(error)
        if mistake is None:
            raise
        raise mistake from error
    values: np.ndarray = result.scores[scores_of(plan.recipe)[0].name]
    return values.reshape(len(plans), -1)


def report(
    config: Config,
    task: Task,
    splits: Split,
    study: Study,
    scores: dict[str, np.ndarray],
    output: Output,
) -> None:
    """The table, the figure, the files; ``results.json`` last."""
    from rich.table import Table

    from digits_jax import corrected_resampled_ttest, plots, summarize
    from report import overviews

    base_plan = next(iter(next(iter(study.values())).values()))
    score = scores_of(base_plan.recipe)[0]
    unit = "points" if score.unit == "%" else score.unit or score.title
    sizes: dict[str, Any] = {
        "train_rows": float(splits.train_weights.sum(1).mean()),
        "test_rows": float(splits.test_weights.sum(1).mean()),
    }
    table = Table(title=f"One change at a time, {config.repeats} x {config.folds} folds")
    for column in ("recipe", score.title, "95 % interval", f"difference ({unit})", "p"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    rows: list[dict[str, Any]] = []
    panels: dict[str, Any] = {}
    for base, variants in study.items():
        title = f"{base}: {score.text(scores[base].mean())} {score.unit}".strip()
        panels[title] = {}
        for name in variants:
            summary = summary_json(score.name, summarize(scores[name], **sizes))
            row = {"recipe": name, score.name: summary, "scores": scores[name]}
            cells = [score.text(summary["mean"]), " to ".join(map(score.text, summary["ci95"]))]
            if name != base:
                test = corrected_resampled_ttest(scores[name], scores[base], **sizes)
                row["against"] = {
                    "recipe": base,
                    "difference": test.mean_difference,
                    "ci95": test.ci95,
                    "p_value": test.p_value,
                }
                cells += [score.difference(test.mean_difference), f"{test.p_value:.3f}"]
                in_percent = score.scale / 100  # of what is drawn in points
                ends = (test.mean_difference, *test.ci95)
                label = name.removeprefix(base) if config.recipe is None else name
                panels[title][label] = [in_percent * end for end in ends]
            rows.append(row)
            table.add_row(name, *cells, end_section=name == list(variants)[-1])
    console.results.print(table)
    figure = plots.differences(panels, label=f"{score.title}: difference, 95 % interval")
    results = {
        "experiment": "ablate",
        **describe(config, task.provenance),
        "epochs": {name: plan.epochs for each in study.values() for name, plan in each.items()},
        "score": score.name,
        "recipes": rows,
    }
    page = overviews.ablation(results, score=score, figure=figure)
    output.finish(results, {"ablation": figure}, page, svg=config.svg)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
