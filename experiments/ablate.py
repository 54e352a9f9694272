"""What does each change of a recipe do? Variants beside their base, all on the same folds.

    python experiments/ablate.py
    python experiments/ablate.py --repeats 4 --epochs 20
    python experiments/ablate.py --data mine.npz --recipe mine.py:variants

Without --recipe: the notebook's recipe with one of the strong recipe's choices each, and the strong
recipe without one each. Variants that share network, loss, optimizer and so on train in one
program; the others one program after another. It writes ``report.html``, ``results.json`` (whole),
``ablation.png``, and checkpoints, with which ``--resume`` goes on.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape

import digits_jax as dj
from common import command_line, console, options, plans, startup, tasks, training
from common.drawing import plots
from common.output import Output, summary_json
from common.plans import Plan
from common.scores import counted, scores_of
from common.tables import Table
from common.tasks import Task
from report import NADEAU, Report

Scores = dict[str, npt.NDArray[Any]]  # [runs], by variant
Study = dict[str, dict[str, Plan]]  # variants by name, under the name of their base, itself first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folds, options.ResumableOut, options.Data):
    """The options of the command line."""

    recipe: str | None = None
    """Variants: FILE.py:FUNCTION of yours, which takes (inputs, targets) and gives a dict, names
    with (Recipe, hyperparameters, epochs), the base first. Default: notebook and strong, on the
    digits."""
    epochs: int | None = None
    """Passes over the training rows, of every variant. Default: the recipe's, or strong's."""
    seed: int = 0
    """Seed of the splits, initial weights, shuffles, dropout and augmentation."""


def main(config: Config) -> None:
    """Trains, compares, shows and writes."""
    config.check_folds()
    options.positive(epochs=config.epochs)
    options.seed(seed=config.seed)
    output = Output(config, script="ablate")
    startup.start_jax(compilation_cache=config.compilation_cache)
    task = tasks.load_task(config.data)
    splits = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    study = make_study(config, task)
    variants = {name: plan for each in study.values() for name, plan in each.items()}
    output.claim()
    scores: Scores = {}
    for number, names in enumerate(grouped(variants).values(), 1):
        done = f"{len(scores)} of {counted(len(variants), 'variant')} done"
        console.say(escape(f"{', '.join(names)}; {done}"), console.notes)
        chosen = {name: variants[name] for name in names}
        values = train(config, task, chosen, splits, output, part=f"program-{number}")
        scores |= dict(zip(names, values, strict=True))
    report(config, task, splits, study, scores, output)


def make_study(config: Config, task: Task) -> Study:
    """The variants of --recipe, or of notebook and strong."""
    if config.recipe is not None:
        own = plans.load_variants(config.recipe, task, epochs=config.epochs)
        first = {scores_of(plan.recipe)[0].name for plan in own.values()}
        options.require(
            len(first) == 1,
            f"--recipe {config.recipe}: the variants' first scores are {', '.join(sorted(first))}; "
            "give all the same first metric, to compare them by",
        )
        return {next(iter(own)): own}
    is_digits = task.dataset is not None
    options.require(is_digits, "notebook and strong are of the digits: give your --recipe, too")
    from digits_variants import digits_study  # which imports JAX

    study = digits_study(dj.recipe_by_name("strong", epochs=config.epochs).epochs)
    for variants in study.values():
        for plan in variants.values():
            options.countable(plan.epochs, task.rows, plan.recipe.batch_size)
    return study


def grouped(variants: dict[str, Plan]) -> dict[tuple[dj.Recipe, int, Any], list[str]]:
    """Names of the variants that share recipe, epochs and form of h, and so one program."""
    import jax

    groups: dict[tuple[dj.Recipe, int, Any], list[str]] = {}
    for name, plan in variants.items():
        form = jax.tree.structure(plan.hyperparameters)
        groups.setdefault((plan.recipe, plan.epochs, form), []).append(name)
    return groups


def train(
    config: Config,
    task: Task,
    variants: dict[str, Plan],
    splits: dj.Split,
    output: Output,
    *,
    part: str,
) -> npt.NDArray[Any]:
    """The first score, [variants, runs], of variants that share one program.

    Equal keys on equal folds: variants differ by nothing but what they are.
    """
    import jax
    import jax.numpy as jnp

    plan, *_ = variants.values()
    one = [dj.make_runs(splits, p.hyperparameters, seed=config.seed) for p in variants.values()]
    h = jax.tree.map(lambda *x: np.concatenate(x), *(each.hyperparameters for each in one))
    keys = jnp.concatenate([each.key for each in one])
    runs = dj.Run(dj.stack_splits(*[splits] * len(variants)), h, keys)
    names = [f"{name}, {fold}" for name in variants for fold in config.fold_names()]
    result = training.train(config, task.data, plan, runs, names, output, part=part)
    values: npt.NDArray[Any] = result.scores[scores_of(plan.recipe)[0].name]
    return values.reshape(len(variants), -1)


def report(
    config: Config,
    task: Task,
    splits: dj.Split,
    study: Study,
    scores: Scores,
    output: Output,
) -> None:
    """The table, the figure, the files."""
    base_plan = next(iter(next(iter(study.values())).values()))
    score = scores_of(base_plan.recipe)[0]
    unit = "points" if score.unit == "%" else score.unit or score.title
    sizes = tasks.mean_sizes(splits)
    times = f", {config.repeats} times" if config.repeats > 1 else ""
    page = Report("One change at a time", f"All variants on the same {config.folds} folds{times}.")
    rows: list[dict[str, Any]] = []
    cells: list[tuple[str, ...]] = []
    panels: dict[str, Any] = {}
    for base, variants in study.items():
        mean = score.with_unit(score.text(scores[base].mean()))
        page.headline(base, mean, f"{score.title}, mean")
        panel = panels[f"{base}: {mean}"] = {}
        for name in variants:
            summary = summary_json(score.name, dj.summarize(scores[name], **sizes))
            row = {"recipe": name, score.name: summary, "scores": scores[name]}
            difference = ("", "", "")
            if name != base:
                test = dj.corrected_resampled_ttest(scores[name], scores[base], **sizes)
                row["against"] = {
                    "recipe": base,
                    "difference": test.mean_difference,
                    "ci95": test.ci95,
                    "p_value": test.p_value,
                }
                # Variants that differ equally in all folds have no interval.
                varies = not math.isnan(test.ci95[0])
                ends = " to ".join(map(score.difference, test.ci95)) if varies else "–"
                p = f"{test.p_value:.3f}" if varies else "–"
                difference = (score.difference(test.mean_difference), ends, p)
                label = name.removeprefix(base) if config.recipe is None else name
                in_percent = score.scale / 100  # of what is drawn in points
                panel[label] = [in_percent * end for end in (test.mean_difference, *test.ci95)]
            rows.append(row)
            mean_and_ends = score.text(summary["mean"]), score.interval(summary)
            cells.append((name, *mean_and_ends, *difference))
    columns = ("recipe", score.title, "95 % interval", f"difference ({unit})", "its interval", "p")
    table = Table("Variants beside their base", columns, cells, NADEAU)
    table.show()
    results = {
        "epochs": {name: plan.epochs for each in study.values() for name, plan in each.items()},
        "score": score.name,
        "recipes": rows,
    }
    figure = plots.differences(panels, label=f"{score.title}: difference, 95 % interval")
    page.table(*table)
    alt = "The difference of each change from its base, with its 95 % interval."
    page.figure("Differences", figure, alt)
    output.finish(results, {"ablation": figure}, page, data=task.provenance, also=["checkpoints/"])


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
