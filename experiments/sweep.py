"""Grid or random search over hyperparameters; each configuration on the same folds.

    python experiments/sweep.py --vary learning_rate=3e-4,1e-3,3e-3 dropout_rate=0,0.25,0.5
    python experiments/sweep.py --random 20 --vary learning_rate=1e-4:1e-2:log dropout_rate=0:0.5
    python experiments/sweep.py --vary batch_size=64,128 network.width=0.5,1 --nested --halving
    python experiments/sweep.py --recipe notebook mine.py:recipe --vary learning_rate=1e-3,3e-3

All combinations of the numbers train as one vmapped program, in waves that fit in memory; recipes,
batch sizes and fields of the network are a loop around it. Rows of each training set choose, and
the test rows score the choice, without bias: a fifth of them (--validation), or with --nested inner
folds, after which the chosen one is trained on all of them.

It writes ``report.html``, ``results.json`` (last, and whole), ``configurations.csv``,
``scores.npz``, figures and the waves to the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tyro

from common import command_line, console, options, startup, tasks, training
from common.output import STARTED, Output, describe, summary_json
from common.scores import Score, scores_of

if TYPE_CHECKING:
    import numpy as np

    from common.tasks import Plan, Task
    from digits_jax import Split
    from digits_jax.search.grids import Scores

SHOWN = 10  # configurations in the table on the console
LAWS = {"": "uniform", "log": "log_uniform", "decay": "decay"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(options.ResumableOut, options.Data):
    """The options of the command line."""

    recipe: tuple[str, ...] = ("notebook",)
    """notebook, strong, or FILE.py:FUNCTION of yours (see cross_validate.py); several are compared
    in one table."""
    vary: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,... of hyperparameters, batch_size, or fields of the network such as
    network.width or network.conv_activation=relu,tanh. With --random, a range of a hyperparameter
    is NAME=LOW:HIGH, uniform, NAME=LOW:HIGH:log, log-uniform, or NAME=LOW:HIGH:decay, of which
    1 - NAME is log-uniform."""
    random: int | None = None
    """Draw so many configurations, instead of all combinations."""
    folds: int = 5
    """Parts of the rows; each is the test set of one run of each configuration."""
    repeats: int = 1
    """Times that the rows are split anew."""
    seeds: int = 1
    """Networks for each configuration and split; their scores are averaged."""
    epochs: int | None = None
    """Passes over the training rows. Default: each recipe's, of the notebook's 100."""
    seed: int = 0
    """Of the splits, initial weights, shuffles, dropout, and of --random."""
    validation: float = 0.2
    """Fraction of the training rows that choose, and don't train."""
    nested: bool = False
    """Choose by inner folds of each training set, and train the choice on all of it."""
    inner_folds: int = 5
    """Parts of an outer training set, with --nested."""
    halving: bool = False
    """Drop the worse half of the configurations, by the rows that choose, again and again on the
    way. Each combination of recipe, network and batch size is halved by itself."""
    verify_halving: bool = False
    """Also train what --halving dropped, to tell whether it would have been chosen."""
    wave_size: int | None = None
    """Runs that train at once; their results are saved before the next. Default: what fits in
    half of the free memory; on a CPU at most 64 runs for each core."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


class Structure:
    """What one program trains: a recipe and its fixed settings, with C configurations of h."""

    def __init__(self, plan: Plan, fixed: dict[str, Any], h: Any, names: Sequence[str]) -> None:
        import numpy as np

        from digits_jax.runs.identity import named_leaves

        self.plan, self.h = plan, h
        leaves = named_leaves(h)
        self.count = max(map(len, leaves.values()), default=1)
        # As decimal digits: a float32 of 0.0003 is 0.0003, not 0.0003000000142492354.
        self.table: list[dict[str, Any]] = [
            {"recipe": plan.name, **fixed}
            | {name: _decimal(leaves[name][c]) for name in names if name in leaves}
            for c in range(self.count)
        ]
        monitor = plan.recipe.monitor
        metrics = plan.recipe.metrics or {}
        if monitor == "loss" and plan.name in tasks.NAMED and "accuracy" in metrics:
            monitor = ("accuracy", "max")
        self.recipe = dataclasses.replace(plan.recipe, monitor=monitor)
        self.h = _spread(h, self.count) if leaves else {"": np.zeros(self.count)}


def _decimal(value: Any) -> Any:
    import numpy as np

    number = np.asarray(value)
    return float(str(np.float32(number))) if number.dtype.kind == "f" else number.item()


def _spread(h: Any, count: int) -> Any:
    """The configurations in the dtypes that JAX holds; each leaf [C]."""
    import jax
    import numpy as np

    def one(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return np.array(
            np.broadcast_to(array.astype(jax.dtypes.canonicalize_dtype(array.dtype)), (count,))
        )

    return jax.tree.map(one, h)


def main(config: Config) -> None:
    """Searches, shows and writes."""
    check(config)
    output = Output(config.output_dir, script="sweep", resume=config.resume, job=config.job)
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import digits_jax as dj

    task = tasks.load_task(config.data)
    console.show_data(task.provenance)
    structures = make_structures(config, task)
    outer = tasks.fold_splits(task, config.folds, repeats=config.repeats, seed=config.seed)
    inner = None
    if config.nested:
        options.require(
            task.labels is not None and task.groups is None,
            "--nested splits classes; for other targets, or groups, leave it out: --validation",
        )
        try:
            inner = dj.inner_splits(task.targets, outer, config.inner_folds, seed=config.seed)
        except ValueError as error:
            raise options.UsageError(str(error)) from error
    else:
        outer = tasks.with_validation(task, outer, config.validation, seed=config.seed)
    output.claim()
    search(config, Sweep(config, task, structures, output), outer, inner)


def check(config: Config) -> None:
    """The arguments, before JAX starts."""
    options.positive(
        epochs=config.epochs,
        repeats=config.repeats,
        seeds=config.seeds,
        random=config.random,
        wave_size=config.wave_size,
    )
    for name in ("folds", "inner_folds"):
        flag, value = "--" + name.replace("_", "-"), getattr(config, name)
        options.require(value >= 2, f"{flag} must be at least 2, not {value}")
    options.few_enough(config.folds * config.repeats, "--folds times --repeats")
    options.few_enough(config.inner_folds, "--inner-folds")
    options.few_enough(config.seeds, "--seeds")
    options.few_enough(config.random or 0, "--random")
    options.seed(seed=config.seed)
    names = len(config.recipe) == len(set(config.recipe)) > 0
    options.require(names, "--recipe must name each recipe once")
    inside = 0 < config.validation < 1
    options.require(inside, f"--validation must be between 0 and 1, not {config.validation}")
    ranges = False
    for name, text in tasks.settings(config.vary, "--vary").items():
        values = text.split(",")
        twice = len(set(values)) < len(values)
        options.require(not twice, f"--vary {name} names a value twice: {text}")
        ranges |= ":" in text
        needs = f"--vary {name}={text} is a range, which is drawn from: add --random"
        options.require(":" not in text or config.random is not None, needs)
    drawn = ranges or any("," in text for text in config.vary)
    options.require(
        config.random is None or drawn,
        "--random needs something to draw: --vary learning_rate=1e-4:1e-2:log",
    )
    options.require(config.halving or not config.verify_halving, "--verify-halving needs --halving")
    options.require(
        not (config.halving and config.job.distributed),
        "--halving moves runs from device to device, so it works in one process: leave out "
        "--distributed, or --halving",
    )


def make_structures(config: Config, task: Task) -> list[Structure]:
    """The programs to train, each with its configurations.

    Raises:
        UsageError: a name is of nothing in the recipe, or a value doesn't fit.
    """
    from digits_jax.search import spaces

    fixed: dict[str, list[Any]] = {}
    numbers: dict[str, Any] = {}
    for name, text in tasks.settings(config.vary, "--vary").items():
        if name == "batch_size" or name.startswith("network."):
            fixed[name] = [tasks.parsed(value) for value in text.split(",")]
        else:
            numbers[name] = _values(name, text)
    found = []
    for recipe in config.recipe:
        plan = tasks.load_plan(recipe, task, epochs=config.epochs)
        for values in itertools.product(*fixed.values()):
            chosen = dict(zip(fixed, values, strict=True))
            of = tasks.with_settings(plan, chosen, "--vary")
            options.countable(of.epochs, task.rows, of.recipe.batch_size)
            space = tasks.with_numbers(of.hyperparameters, numbers, "--vary")
            try:
                if config.random is None:
                    h = spaces.grid(space)
                else:
                    h = spaces.random_search(space, config.random, seed=config.seed)
                _check(h)
            except ValueError as error:
                raise options.UsageError(f"--vary: {error}") from error
            found.append(Structure(of, chosen, h, list(numbers)))
    return found


def _values(name: str, text: str) -> Any:
    """A list of values or, of LOW:HIGH, a law."""
    from digits_jax.search import spaces

    if ":" not in text:
        values = [tasks.parsed(value) for value in text.split(",")]
        words = [value for value in values if isinstance(value, str)]
        options.require(not words, f"--vary {name}={text}: {', '.join(words)} is no number")
        return values
    low, _, rest = text.partition(":")
    high, _, law = rest.partition(":")
    ends = [tasks.parsed(end) for end in (low, high)]
    fits = law in LAWS and not any(isinstance(end, str) for end in ends)
    options.require(
        fits, f"--vary {name}={text}: write a range as LOW:HIGH, LOW:HIGH:log or :decay"
    )
    try:
        return getattr(spaces, LAWS[law])(*map(float, ends))
    except ValueError as error:
        raise options.UsageError(f"--vary {name}={text}: {error}") from error


def _check(h: Any) -> None:
    """Raises ValueError for a configuration that hyperparameters with a check refuse."""
    import jax

    if not hasattr(h, "check"):
        return
    for c in range(len(jax.tree.leaves(h)[0])):
        jax.tree.map(lambda leaf, c=c: leaf[c].item(), h).check()


class Sweep:
    """What the stages of a sweep share: configurations, data, folder, signals, and the tally."""

    def __init__(
        self, config: Config, task: Task, structures: list[Structure], output: Output
    ) -> None:
        import numpy as np

        self.config, self.task, self.output = config, task, output
        self.structures = structures
        self.waves: list[dict[str, Any]] = []
        self.table = [row for structure in structures for row in structure.table]
        self.starts = np.cumsum([0, *(structure.count for structure in structures)])
        names = [scores_of(each.recipe) for each in structures]
        same = all(each == names[0] for each in names)
        options.require(same, "the recipes have different scores, and can't be compared")
        self.scores = names[0]
        self.monitor = structures[0].recipe.monitor
        chosen = self.monitor if isinstance(self.monitor, str) else self.monitor[0]
        self.score = next(each for each in self.scores if each.name == chosen)

    def all_on(self, stage: str, splits: Split, groups: int | None = None) -> Scores:
        """All configurations on all splits: [K, F], structure by structure.

        With ``groups``, the splits are in so many groups, each of which is halved by itself.
        """
        import numpy as np

        from digits_jax.search import grids, halving

        parts = []
        for s, structure in enumerate(self.structures):
            train: Any = grids.train_grid if groups is None else halving.halve_grid
            more = () if groups is None else (groups,)
            work = functools.partial(train, self.task.data, structure.h, splits, *more)
            runs = structure.count * self.config.seeds * len(splits.train_rows)
            unit, count = ("run", runs) if groups is None else ("outer split", groups)
            parts.append(self.watched(work, f"{stage}-{s}", structure, count, unit=unit))

        def joined(name: str) -> Any:
            first = getattr(parts[0], name)
            if not isinstance(first, dict):
                return np.concatenate([getattr(part, name) for part in parts])
            return {k: np.concatenate([getattr(part, name)[k] for part in parts]) for k in first}

        return grids.Scores(*map(joined, grids.Scores._fields))

    def chosen_on(self, stage: str, outer: Split, chosen: np.ndarray) -> Scores:
        """Configuration chosen[o] on outer split o: scores [O]."""
        import numpy as np

        from digits_jax.search import grids

        scores = {each.name: np.full(len(chosen), np.nan) for each in self.scores}
        epochs, diverged = np.zeros(len(chosen), int), np.zeros(len(chosen), bool)
        of = np.searchsorted(self.starts, chosen, side="right") - 1
        for s in np.unique(of).tolist():
            structure, here = self.structures[s], of == s
            configurations = np.where(here, chosen - self.starts[s], -1)
            train = functools.partial(
                grids.train_chosen, self.task.data, structure.h, outer, configurations
            )
            count = int(here.sum()) * self.config.seeds
            # Draws of their own: the hyperparameters were not chosen for these initial weights.
            seed = (self.config.seed + 2**31) % 2**32
            found = self.watched(train, f"{stage}-{s}", structure, count, seed=seed)
            for name, values in scores.items():
                values[here] = found.scores[name][here]
            epochs[here], diverged[here] = found.epochs[here], found.diverged[here]
        return grids.Scores(scores, {}, epochs, diverged)

    def watched(
        self,
        work: Callable[..., Any],
        stage: str,
        structure: Structure,
        count: int,
        *,
        seed: int | None = None,
        unit: str = "run",
    ) -> Any:
        """Work in waves, with progress, a tally of time and memory, and a stop at a signal."""
        import psutil

        from digits_jax import WavesInterrupted
        from digits_jax.runs.results import Progress

        done, config = 0, self.config

        def on_wave(now: int) -> bool:
            nonlocal done
            done = now
            seconds, memory = time.perf_counter() - STARTED, psutil.Process().memory_info().rss
            tally = {"stage": stage, "done": now, "seconds": seconds, "resident_bytes": memory}
            self.waves.append(tally)
            return watch.signal is not None

        def on_epoch(progress: Progress) -> bool:
            part = len(progress.history["loss"]) * progress.epoch // progress.epochs
            now = done + (part if unit == "run" else 0)
            return watch.on_epoch(Progress(now, count, progress.history))

        with console.Watch(count, count, unit=unit, score=self.scores[0]) as watch:
            try:
                result = work(
                    folder=self.output.waves / stage,
                    epochs=structure.plan.epochs,
                    seeds=config.seeds,
                    seed=config.seed if seed is None else seed,
                    wave_size=config.wave_size,
                    recipe=structure.recipe,
                    identity={"seed": config.seed, "stage": stage},
                    about=options.identifying(config),
                    resume=config.resume,
                    on_epoch=on_epoch,
                    on_wave=on_wave,
                )
            except WavesInterrupted as stop:
                raise training.stopped(stop, watch, self.output) from stop
            except Exception as error:
                mistake = structure.plan.mistake(error)
                if mistake is None:
                    raise
                raise mistake from error
        if startup.anywhere(watch.signal is not None):  # in the last wave of this stage
            done_all = WavesInterrupted(count, count, f"{unit}s")
            raise training.stopped(done_all, watch, self.output)
        return result


def search(config: Config, sweep: Sweep, outer: Split, inner: Split | None) -> None:
    """Rows of the training sets choose; the test rows of each outer split score its choice."""
    import numpy as np

    from digits_jax.search import grids
    from digits_jax.search.halving import halving_rungs

    splits = len(outer.train_rows)
    stage, where = ("folds", outer) if inner is None else ("inner", inner)
    halved: dict[str, Any] | None = None
    if config.halving:
        first = sweep.structures[0]
        rungs = halving_rungs(first.plan.epochs, first.count)[:-1]
        after = ", ".join(map(str, rungs)) or "no"
        console.results.print(f"halving after {after} epochs", highlight=False)
        scores = sweep.all_on("halving", where, splits)
    else:
        scores = sweep.all_on(stage, where)
    chosen = choose(sweep, scores, splits)
    if config.halving:
        epochs = np.repeat(
            [each.plan.epochs for each in sweep.structures],
            [each.count for each in sweep.structures],
        )
        spent = float(scores.epochs.sum() / (epochs.sum() * scores.epochs.shape[1]))
        halved = {"share_of_epochs_trained": spent, "same_winner": None}
        words = f"halving trained {100 * spent:.0f} % of the runs' epochs"
        if config.verify_halving:
            whole = choose(sweep, sweep.all_on(stage, where), splits)
            halved["same_winner"] = (whole == chosen).tolist()
            words += f"; the winner is the same in {(whole == chosen).sum()} of {splits} splits"
        console.results.print(words, highlight=False, soft_wrap=True)
    if inner is None:
        tested = {name: each[chosen, np.arange(splits)] for name, each in scores.scores.items()}
        failed = scores.diverged[chosen, np.arange(splits)]
        final = grids.Scores(tested, {}, scores.epochs[chosen, np.arange(splits)], failed)
    else:
        final = sweep.chosen_on("outer", outer, chosen)
    if startup.reports():
        report(config, sweep, outer, scores, chosen, final, halved)


def deciding(scores: Scores) -> dict[str, np.ndarray]:
    """The scores that choose: of validation rows, or of the test rows of inner folds."""
    return scores.validation or scores.scores


def choose(sweep: Sweep, scores: Scores, splits: int) -> np.ndarray:
    """The best configuration [O] for each outer split, by its own rows that choose alone."""
    import numpy as np

    from digits_jax.search import grids

    # What was dropped has no loss after the last epoch, and can't be chosen.
    last = np.repeat(
        [each.plan.epochs for each in sweep.structures], [each.count for each in sweep.structures]
    )
    found = deciding(scores)
    dropped = scores.epochs < last[:, None]
    found = {name: np.where(dropped, np.nan, values) for name, values in found.items()}

    def by_split(values: np.ndarray) -> np.ndarray:
        return values.reshape(len(values), splits, -1).swapaxes(0, 1)

    of = {name: by_split(values) for name, values in found.items()}
    order: np.ndarray = grids.rank(of, sweep.monitor, diverged=by_split(scores.diverged))
    return order[:, 0]


def varied(sweep: Sweep) -> list[str]:
    """The names that take more than one value."""
    names = dict.fromkeys(name for row in sweep.table for name in row)
    return [name for name in names if len({str(row.get(name)) for row in sweep.table}) > 1]


def text(value: Any) -> str:
    """A cell of a table."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def command_of(config: Config, row: dict[str, Any]) -> str:
    """What trains a configuration, on the command line."""
    words = ["python", "experiments/cross_validate.py", "--recipe", str(row["recipe"])]
    if config.data != "auto":
        words += ["--data", config.data]
    if config.epochs is not None:
        words += ["--epochs", str(config.epochs)]
    if "batch_size" in row:
        words += ["--batch-size", str(row["batch_size"])]
    others = {name: v for name, v in row.items() if name not in ("recipe", "batch_size")}
    settings = [f"{name}={value}" for name, value in others.items()]
    return shlex.join([*words, *(["--set", *settings] if settings else [])])


def report(
    config: Config,
    sweep: Sweep,
    outer: Split,
    scores: Scores,
    chosen: np.ndarray,
    final: Scores,
    halved: dict[str, Any] | None,
) -> None:
    """The tables, the arrays and the figures; ``results.json`` last."""
    import numpy as np
    from rich.table import Table

    from digits_jax import summarize
    from digits_jax.search import grids
    from digits_jax.splits import test_sizes, train_sizes

    found, score, names = deciding(scores), sweep.score, varied(sweep)
    order = grids.rank(found, sweep.monitor, diverged=scores.diverged)
    rows = configurations(sweep, scores, order)
    who = "inner folds" if config.nested else "validation rows"
    table = Table(title=f"Configurations on the {who} of {len(chosen)} splits")
    for column in ("rank", *names, *(each.title for each in sweep.scores), "diverged"):
        table.add_column(column.replace("_", " "), justify="right")
    for row in rows[:SHOWN]:
        cells = (each.text(row[each.name]) for each in sweep.scores)
        failed = f"{row['diverged']} of {scores.diverged.shape[1]}" if row["diverged"] else ""
        table.add_row(str(row["rank"]), *(text(row.get(name)) for name in names), *cells, failed)
    console.results.print(table)
    if len(order) > SHOWN:
        console.results.print(f"({len(order) - SHOWN} more in configurations.csv)")

    sizes: Any = {
        "train_rows": float(train_sizes(outer).mean()),
        "test_rows": float(test_sizes(outer).mean()),
    }
    summaries = {each.name: summarize(final.scores[each.name], **sizes) for each in sweep.scores}
    of_split = found[score.name].reshape(len(order), len(chosen), -1).mean(axis=2)
    table = Table(title="Chosen for each split by its training rows, scored on its test rows")
    for column in ("split", *names, f"{who}: {score.title}", f"test: {score.title}"):
        table.add_column(column.replace("_", " "), justify="right")
    by_split = []
    for o, k in enumerate(chosen.tolist()):
        tested = {each.name: float(final.scores[each.name][o]) for each in sweep.scores}
        row = {"outer_split": o + 1, **sweep.table[k], "chosen_by": float(of_split[k, o])}
        by_split.append(row | tested | {"diverged": bool(final.diverged[o])})
        chosen_values = [text(sweep.table[k].get(name)) for name in names]
        test = score.text(tested[score.name]) + " diverged" * bool(final.diverged[o])
        table.add_row(str(o + 1), *chosen_values, score.text(of_split[k, o]), test)
    table.add_section()
    middle = [""] * (len(names) + 1)
    summary = summaries[score.name]
    table.add_row("mean ± sd", *middle, score.spread(summary.mean, summary.std))
    unbiased = {name: summary_json(name, each) for name, each in summaries.items()}
    ends = unbiased[score.name]["ci95"]
    if not np.isnan(ends).any():
        table.add_row("95 % interval", *middle, " to ".join(map(score.text, ends)))
    console.results.print(table)
    command = command_of(config, sweep.table[int(order[0])])
    console.results.print(f"The best of all: {command}", highlight=False, soft_wrap=True)
    write(
        config,
        sweep,
        scores,
        rows,
        {
            "configurations": rows,
            "outer_splits": by_split,
            **unbiased,
            "best": sweep.table[int(order[0])],
            "best_command": command,
            "halving": halved,
        },
    )


def configurations(sweep: Sweep, scores: Scores, order: np.ndarray) -> list[dict[str, Any]]:
    """A row for each configuration, the best first, by the rows that choose."""
    found = deciding(scores)
    rows = []
    for i, k in enumerate(order.tolist()):
        row = {"rank": i + 1, **sweep.table[k]}
        for each in sweep.scores:
            row[each.name] = found[each.name][k].mean()
            row[f"{each.name}_sd"] = found[each.name][k].std()
        row["epochs"] = scores.epochs[k].mean()
        rows.append(row | {"diverged": int(scores.diverged[k].sum())})
    return rows


def write(
    config: Config,
    sweep: Sweep,
    scores: Scores,
    rows: list[dict[str, Any]],
    content: dict[str, Any],
) -> None:
    """The table, the arrays and the figures; ``results.json`` last."""
    import numpy as np

    from report import searches

    sweep.output.table("configurations.csv", rows)
    names = dict.fromkeys(name for row in sweep.table for name in row)
    sweep.output.arrays(
        "scores.npz",
        **deciding(scores),
        **{f"test_{name}": each for name, each in scores.scores.items() if scores.validation},
        epochs=scores.epochs,
        diverged=scores.diverged,
        **{name: np.array([row.get(name, np.nan) for row in sweep.table]) for name in names},
    )
    score = sweep.score
    finite = np.where(scores.diverged, np.nan, deciding(scores)[score.name])
    columns = {name: [row.get(name) for row in sweep.table] for name in varied(sweep)}
    columns = {name: values for name, values in columns.items() if None not in values}
    results = {
        "experiment": "sweep",
        **describe(config, sweep.task.provenance),
        **content,
        "waves": sweep.waves,
    }
    drawn = figures(columns, finite, score)
    page = searches.sweep(results, columns=columns, scores=sweep.scores, score=score, figures=drawn)
    also = ["configurations.csv", "scores.npz", "waves/"]
    sweep.output.finish(results, drawn, page, svg=config.svg, also=also)


def figures(columns: dict[str, list[Any]], values: np.ndarray, score: Score) -> dict[str, Any]:
    """What each name does, and each pair of numbers: of values [K, F] of a score."""
    import numpy as np

    from digits_jax import plots

    found: dict[str, Any] = {}
    if not columns or np.isnan(values).all():
        return found
    scaled, title = score.scale * values, f"Validation {score.title[0].lower()}{score.title[1:]}"
    numeric = {
        name: each for name, each in columns.items() if not any(isinstance(v, str) for v in each)
    }
    log = [name for name, each in numeric.items() if _spans_decades(each)]
    found["effects"] = plots.effects(columns, scaled, label=title, log=log)
    for pair in itertools.combinations(numeric, 2):
        means = np.array([row.mean() for row in scaled])
        x, y = (columns[name] for name in pair)
        if not np.isnan(means).all():
            found["_".join(pair)] = plots.pair(x, y, means, pair, label=title, log=log)
    return found


def _spans_decades(values: Sequence[float]) -> bool:
    """Whether positive values are far enough apart for a logarithmic axis."""
    return min(values) > 0 and max(values) >= 5 * min(values)


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
