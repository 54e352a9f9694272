"""Grid or random search over hyperparameters; each configuration on the same folds.

    python experiments/sweep.py --vary learning_rate=3e-4,1e-3,3e-3 dropout_rate=0,0.25,0.5
    python experiments/sweep.py --random 20 --vary learning_rate=1e-4:1e-2:log dropout_rate=0:0.5
    python experiments/sweep.py --vary batch_size=64,128 network.width=0.5,1 --nested --halving
    python experiments/sweep.py --recipe notebook mine.py:recipe --vary learning_rate=1e-3,3e-3

All combinations of hyperparameters train as one vmapped program, in waves that fit in memory.
Recipes, batch sizes and fields of the network are a loop around it. A fifth of each training set
(--validation) chooses, and the test rows score the choice, without bias. With --nested, inner folds
of the training set choose, and the choice is then trained on all of it.

It writes ``report.html``, ``results.json`` (whole), ``configurations.csv``,
``scores.npz``, figures and the waves to the output folder.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import tyro

import digits_jax as dj
from common import command_line, console, options, plans, startup, tasks
from common.output import Output
from report import searches

if TYPE_CHECKING:
    from stages import Sweep


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.Folds, options.ResumableOut, options.Tracked, options.Data):
    """The options of the command line."""

    recipe: tuple[str, ...] = ("notebook",)
    """Recipes: notebook, strong, or FILE.py:FUNCTION of yours (see cross_validate.py); several are
    compared in one table."""
    vary: tuple[str, ...] = ()
    """Values to try, NAME=VALUE,VALUE,... of hyperparameters, batch_size, or fields of the network
    such as network.width or network.conv_activation=relu,tanh. With --random, a range of a
    hyperparameter is NAME=LOW:HIGH, uniform, NAME=LOW:HIGH:log, log-uniform, or
    NAME=LOW:HIGH:decay, of which 1 - NAME is log-uniform."""
    random: int | None = None
    """Configurations to draw, instead of all combinations."""
    seeds: int = 1
    """Networks for each configuration and split; their scores are averaged."""
    epochs: int | None = None
    """Passes over the training rows. Default: each recipe's (notebook: 100)."""
    seed: int = 0
    """Seed of the splits, initial weights, shuffles, dropout, and of --random."""
    validation: float = 0.2
    """Fraction of the training rows that choose, and are not trained on."""
    nested: bool = False
    """Choice by inner folds of each training set; what they choose is trained on all of it."""
    inner_folds: int = 5
    """Parts of an outer training set, with --nested."""
    halving: bool = False
    """Successive halving: the worse half of the configurations, by the rows that choose, is dropped
    again and again on the way. Each combination of recipe, network and batch size is halved by
    itself."""
    verify_halving: bool = False
    """Training, too, of what --halving dropped, to tell whether it would have been chosen."""
    wave_size: int | None = None
    """Runs that train at once; their results are saved before the next. Default: what fits in
    half of the free memory; on a CPU at most 64 runs for each core."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


def main(config: Config) -> None:
    """Searches, shows and writes."""
    check(config)
    output = Output(config, script="sweep")
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import stages  # which imports JAX

    task = tasks.load_task(config.data)
    structures = stages.make_structures(config, task)
    outer = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    inner = None
    if config.nested:
        classes = (
            "--nested splits classes; for other targets, or groups, leave it out: --validation"
        )
        options.require(task.labels is not None and task.groups is None, classes)
        with options.usage_errors():
            inner = dj.inner_splits(task.targets, outer, config.inner_folds, seed=config.seed)
    else:
        outer = tasks.with_validation(task, outer, config.validation, seed=config.seed)
    output.claim()
    search(config, stages.Sweep(config, task, structures, output), outer, inner)


def check(config: Config) -> None:
    """The arguments, before JAX starts."""
    config.check_folds()
    options.at_least(2, inner_folds=config.inner_folds)
    options.positive(
        epochs=config.epochs,
        seeds=config.seeds,
        random=config.random,
        wave_size=config.wave_size,
    )
    options.few_enough(config.inner_folds, "--inner-folds")
    options.few_enough(config.seeds, "--seeds")
    options.few_enough(config.random or 0, "--random")
    options.seed(seed=config.seed)
    names = len(config.recipe) == len(set(config.recipe)) > 0
    options.require(names, "--recipe must name each recipe once")
    inside = 0 < config.validation < 1
    options.require(inside, f"--validation must be between 0 and 1, not {config.validation}")
    ranges = False
    for name, text in plans.settings(config.vary, "--vary").items():
        values = text.split(",")
        twice = len(set(values)) < len(values)
        options.require(not twice, f"--vary {name} names a value twice: {text}")
        ranges |= ":" in text
        needs = f"--vary {name}={text} is a range, which is drawn from: add --random"
        options.require(":" not in text or config.random is not None, needs)
    drawn = ranges or any("," in text for text in config.vary)
    example = "--random needs something to draw: --vary learning_rate=1e-4:1e-2:log"
    options.require(config.random is None or drawn, example)
    options.require(config.halving or not config.verify_halving, "--verify-halving needs --halving")
    options.require(
        not (config.halving and config.job.distributed),
        "--halving moves runs from device to device, so it works in one process: leave out "
        "--distributed, or --halving",
    )


def search(config: Config, sweep: Sweep, outer: dj.Split, inner: dj.Split | None) -> None:
    """Rows of the training sets choose; the test rows of each outer split score their choice."""
    splits = len(outer.train_rows)
    stage, where = ("folds", outer) if inner is None else ("inner", inner)
    halved: dict[str, Any] | None = None
    if config.halving:
        rungs = ", ".join(map(str, sweep.rungs))
        none = "halving drops nothing: there are too few configurations or epochs"
        console.say(f"halving after epoch {rungs}" if rungs else none, console.notes)
        scores = sweep.all_on("halving", where, splits)
    else:
        scores = sweep.all_on(stage, where)
    chosen = sweep.choose(scores, splits)
    if config.halving:
        spent = float(scores.epochs.sum() / (sweep.epochs.sum() * scores.epochs.shape[1]))
        halved = {"share_of_epochs_trained": spent, "same_winner": None}
        words = f"halving trained {100 * spent:.0f} % of the runs' epochs"
        if config.verify_halving:
            same = sweep.choose(sweep.all_on(stage, where), splits) == chosen
            halved["same_winner"] = same.tolist()
            words += f"; the winner is the same in {same.sum()} of {splits} splits"
        console.say(words)
    if inner is None:
        final = sweep.of_chosen(scores, chosen)
    else:
        final = sweep.chosen_on("outer", outer, chosen)
    if startup.reports():
        searches.report(sweep, outer, scores, chosen, final, halved)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
