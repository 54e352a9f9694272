"""Grid or random search over hyperparameters; each configuration on the same folds.

    python experiments/sweep.py --learning-rate 3e-4 1e-3 3e-3 --dropout-rate 0 0.25 0.5
    python experiments/sweep.py --random 20 --learning-rate 1e-4 1e-2 --dropout-rate 0 0.5
    python experiments/sweep.py --learning-rate 3e-4 1e-3 3e-3 --nested --halving

All combinations of the hyperparameters train as one vmapped program, in waves that fit in memory;
network and batch size are a loop around it. Without ``--nested`` the best score is optimistic: it
was chosen on the rows that it is computed from. With it, inner folds of each outer training set
choose, and the outer test rows score "tune, then train" without bias.

It writes ``report.html``, ``results.json`` (last, and whole), ``configurations.csv``,
``scores.npz``, figures and the waves to the output folder.

Measured once each, on all 5620 rows, 10 epochs, 2 cores of a shared AVX-512 x86-64 machine (± is
the sd between folds):

    --learning-rate 3e-4 1e-3 2e-3 4e-3 8e-3 --dropout-rate 0 0.25 0.5
        75 runs; the best is 4e-3 without dropout, 98.54 ± 0.13 % (optimistic)
    --learning-rate 1e-3 2e-3 4e-3 8e-3 --dropout-rate 0 --folds 3 --inner-folds 2 --nested
        --halving --verify-halving
        2e-3 is chosen in each outer split, 97.88 ± 0.59 % (95 % interval 95.03 to 100.00 %);
        halving trains 75 % of the runs' epochs and chooses the same in 3 of 3 splits
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from common import command_line, console, options, startup, training
from common.output import Output, describe, summary_json

if TYPE_CHECKING:
    import numpy as np

    from digits_jax import Dataset, Hyperparameters, Split
    from digits_jax.search.grids import Scores

STARTED = time.perf_counter()
HYPERPARAMETERS = (
    "learning_rate",
    "beta_1",
    "beta_2",
    "epsilon",
    "weight_decay",
    "label_smoothing",
    "dropout_rate",
)
STRUCTURE = ("width", "conv_activation", "dense_activation", "batch_size")
DECAYS = ("beta_1", "beta_2")  # 1 - beta is log-uniform: 0.9, 0.99 and 0.999 are as far apart
LOGARITHMIC = ("learning_rate", "epsilon", "weight_decay")
SHOWN = 10  # configurations in the table on the console
Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line. Those that take several values are searched."""

    data: str = "auto"
    """Rows: auto (the cached download, else UCI, else bundled), uci, bundled, or the path of a
    CSV in UCI's layout."""
    learning_rate: tuple[float, ...] = (1e-3,)
    """Of Adam, a step. With --random: low and high, log-uniform."""
    beta_1: tuple[float, ...] = (0.9,)
    """Decay of Adam's first moment. With --random: low and high, 1 - beta log-uniform."""
    beta_2: tuple[float, ...] = (0.999,)
    """Decay of Adam's second moment. With --random: low and high, 1 - beta log-uniform."""
    epsilon: tuple[float, ...] = (1e-7,)
    """Added to the root of Adam's second moment. With --random: low and high, log-uniform."""
    weight_decay: tuple[float, ...] = (0.0,)
    """Decoupled, as in AdamW. With --random: low and high, log-uniform."""
    label_smoothing: tuple[float, ...] = (0.0,)
    """Fraction of a label that is spread over all classes. With --random: low and high, uniform."""
    dropout_rate: tuple[float, ...] = (0.25,)
    """Fraction of units that dropout sets to zero. With --random: low and high, uniform."""
    random: int | None = None
    """Draw so many configurations from the ranges, instead of a grid of the values."""
    width: tuple[float, ...] = (1.0,)
    """Multiplies the features of every layer. This and the next three compile anew for each value,
    and all their combinations are tried."""
    conv_activation: tuple[Activation, ...] = ("relu",)
    """After the convolutions."""
    dense_activation: tuple[Activation, ...] = ("sigmoid",)
    """After the dense layers."""
    batch_size: tuple[int, ...] = (128,)
    """Rows of an optimizer step."""
    folds: int = 5
    """Parts of the rows; each is the test set of one run of each configuration."""
    repeats: int = 1
    """Times that the rows are split anew."""
    seeds: int = 1
    """Networks for each configuration and split; their scores are averaged."""
    epochs: int = 100
    """Passes over the training rows."""
    seed: int = 0
    """Of the splits, initial weights, shuffles, dropout, and of --random."""
    nested: bool = False
    """Choose by inner folds of each training set, and score the choice on the outer test rows."""
    inner_folds: int = 5
    """Parts of an outer training set, with --nested."""
    halving: bool = False
    """With --nested: drop the worse half of the configurations, by inner validation, again and
    again on the way. Each combination of network and batch size is halved by itself."""
    verify_halving: bool = False
    """Also train what --halving dropped, to tell whether it would have been chosen."""
    wave_size: int | None = None
    """Runs that train at once; their results are saved before the next. Default: what fits in
    half of the free memory; on a CPU at most 64 runs for each core."""
    output_dir: Path | None = None
    """Folder for all that is written. Default: runs/sweep/<date>-<time>."""
    resume: bool = False
    """Go on after the last finished wave in --output-dir."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""
    svg: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also write the figures as SVG."""
    job: tyro.conf.OmitArgPrefixes[options.Job] = options.Job()
    """Several processes, on one host or many."""


def main(config: Config) -> None:
    """Searches, shows and writes."""
    check(config)
    output = Output(config.output_dir, script="sweep", resume=config.resume, job=config.job)
    startup.start_jax(compilation_cache=config.compilation_cache, job=config.job)
    import digits_jax as dj

    try:
        hyperparameters = make_hyperparameters(config)
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    dataset = dj.load_digits(config.data)
    console.show_data(dataset.provenance)
    try:
        outer = dj.kfold_splits(
            dataset.labels, config.folds, seed=config.seed, repeats=config.repeats
        )
        inner = None
        if config.nested:
            inner = dj.inner_splits(dataset.labels, outer, config.inner_folds, seed=config.seed)
    except ValueError as error:
        raise options.UsageError(str(error)) from error
    options.countable(config.epochs, len(dataset.labels), min(config.batch_size))
    output.claim()
    sweep = Sweep(config, dataset, hyperparameters, output)
    if inner is None:
        plain(config, sweep, outer)
    else:
        nested(config, sweep, outer, inner)


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
    for name in (*HYPERPARAMETERS, *STRUCTURE):
        flag, values = "--" + name.replace("_", "-"), getattr(config, name)
        options.require(len(values) > 0, f"{flag} needs at least one value")
        options.require(len(set(values)) == len(values), f"{flag} names a value twice: {values}")
        if name in HYPERPARAMETERS and config.random is not None:
            options.require(
                len(values) <= 2, f"{flag} with --random takes one value, or two: low and high"
            )
        high = 1 if name in ("beta_1", "beta_2", "label_smoothing", "dropout_rate") else 1e9
        high = 32 if name == "width" else high
        low_is_in = name in ("weight_decay", "label_smoothing", "dropout_rate", "beta_1", "beta_2")
        for value in values:
            if not isinstance(value, str):
                inside = (0 <= value if low_is_in else 0 < value) and value < high
                bounds = f"{'at least' if low_is_in else 'above'} 0 and below {high:g}"
                options.require(inside, f"{flag} must be {bounds}, not {value}")
    options.require(
        config.random is None or any(len(getattr(config, name)) == 2 for name in HYPERPARAMETERS),
        "--random needs a range: give at least one number two values, low and high, such as "
        "--learning-rate 1e-4 1e-2",
    )
    options.require(
        config.nested or not config.halving,
        "--halving drops configurations by inner validation rows: add --nested",
    )
    options.require(config.halving or not config.verify_halving, "--verify-halving needs --halving")
    options.require(
        not (config.halving and config.job.distributed),
        "--halving moves runs from device to device, so it works in one process: leave out "
        "--distributed, or --halving",
    )


def make_hyperparameters(config: Config) -> Hyperparameters:
    """The configurations of the traced hyperparameters, each [C]."""
    from digits_jax import Hyperparameters
    from digits_jax.search import spaces

    values: dict[str, Any] = {name: list(getattr(config, name)) for name in HYPERPARAMETERS}
    if config.random is None:
        return spread(spaces.grid(Hyperparameters(**values)))
    laws: dict[str, Any] = {}
    for name, (low, *more) in values.items():
        high = more[-1] if more else low
        law = spaces.uniform
        if low == high:
            laws[name] = low
            continue
        if name in LOGARITHMIC:
            law = spaces.log_uniform
        elif name in DECAYS:
            law = spaces.decay
        try:
            laws[name] = law(low, high)
        except ValueError as error:
            raise options.UsageError(f"--{name.replace('_', '-')}: {error}") from error
    space = Hyperparameters(**laws)
    return spread(spaces.random_search(space, config.random, seed=config.seed))


def spread(h: Hyperparameters) -> Hyperparameters:
    """The configurations as float32, as JAX holds them; each [C]."""
    import jax
    import numpy as np

    count = max(np.size(leaf) for leaf in jax.tree.leaves(h))
    spread: Hyperparameters = jax.tree.map(
        lambda leaf: np.array(np.broadcast_to(np.asarray(leaf, np.float32), (count,))), h
    )
    return spread


class Sweep:
    """What the stages of a sweep share: configurations, data, folder, signals, and the tally."""

    def __init__(
        self, config: Config, dataset: Dataset, hyperparameters: Hyperparameters, output: Output
    ) -> None:
        import numpy as np

        self.config, self.dataset, self.hyperparameters, self.output = (
            config,
            dataset,
            hyperparameters,
            output,
        )
        self.data = dataset.data
        self.count = np.size(hyperparameters.learning_rate)
        self.waves: list[dict[str, Any]] = []
        self.structures = [
            dict(zip(STRUCTURE, values, strict=True))
            for values in itertools.product(*(getattr(config, name) for name in STRUCTURE))
        ]
        # As decimal digits: a float32 of 0.0003 is 0.0003, not 0.0003000000142492354.
        self.table: list[dict[str, Any]] = [
            structure
            | {name: float(str(getattr(hyperparameters, name)[c])) for name in HYPERPARAMETERS}
            for structure in self.structures
            for c in range(self.count)
        ]

    def score(self, stage: str, splits: Split, groups: int | None = None) -> Scores:
        """All configurations on all splits: [K, F], structure by structure.

        With ``groups``, the splits are the inner ones of so many outer splits, and are halved.
        """
        import numpy as np

        from digits_jax.search import grids, halving

        parts = []
        for s in range(len(self.structures)):
            if groups is None:
                count = self.count * self.config.seeds * len(splits.train_rows)
                search: Any = functools.partial(
                    grids.train_grid, self.data, self.hyperparameters, splits
                )
                parts.append(self.watched(search, f"{stage}-{s}", s, count))
            else:
                search = functools.partial(
                    halving.halve_grid, self.data, self.hyperparameters, splits, groups
                )
                parts.append(self.watched(search, f"{stage}-{s}", s, groups, unit="outer split"))
        names = parts[0].scores
        scores = {name: np.concatenate([part.scores[name] for part in parts]) for name in names}
        epochs, diverged = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("epochs", "diverged")
        )
        return grids.Scores(scores, epochs, diverged)

    def final(self, stage: str, outer: Split, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy [O] of configuration chosen[o] on outer split o, and whether it diverged."""
        import numpy as np

        from digits_jax.search import grids

        accuracy, diverged = np.full(len(chosen), np.nan), np.zeros(len(chosen), bool)
        for s in np.unique(chosen // self.count).tolist():
            here = chosen // self.count == s
            configurations = np.where(here, chosen % self.count, -1)
            train = functools.partial(
                grids.train_chosen, self.data, self.hyperparameters, outer, configurations
            )
            count = int(here.sum()) * self.config.seeds
            # Draws of their own: the hyperparameters were not chosen for these initial weights.
            seed = (self.config.seed + 2**31) % 2**32
            scores = self.watched(train, f"{stage}-{s}", s, count, seed=seed)
            accuracy[here] = scores.scores["accuracy"][here]
            diverged[here] = scores.diverged[here]
        return accuracy, diverged

    def watched(
        self,
        work: Callable[..., Any],
        stage: str,
        s: int,
        count: int,
        *,
        seed: int | None = None,
        unit: str = "run",
    ) -> Any:
        """Work in waves, with progress, a tally of time and memory, and a stop at a signal."""
        import flax.linen as nn
        import psutil

        import digits_jax as dj
        from digits_jax.runs.results import Progress
        from digits_jax.waves import WavesInterrupted

        done, config, structure = 0, self.config, self.structures[s]

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

        network = dj.DigitsCNN(
            width=structure["width"],
            conv_activation=getattr(nn, structure["conv_activation"]),
            dense_activation=getattr(nn, structure["dense_activation"]),
        )
        recipe = dj.Recipe(
            network=dj.NetworkWithHyperparameters(network),
            batch_size=structure["batch_size"],
            monitor=("accuracy", "max"),
        )
        with console.Watch(count, count, unit=unit) as watch:
            try:
                result = work(
                    folder=self.output.waves / stage,
                    epochs=config.epochs,
                    seeds=config.seeds,
                    seed=config.seed if seed is None else seed,
                    wave_size=config.wave_size,
                    recipe=recipe,
                    identity={"seed": config.seed, "stage": stage},
                    about=options.identifying(config),
                    resume=config.resume,
                    on_epoch=on_epoch,
                    on_wave=on_wave,
                )
            except WavesInterrupted as stop:
                raise training.stopped(stop, watch, self.output) from stop
        if startup.anywhere(watch.signal is not None):  # in the last wave of this stage
            done_all = WavesInterrupted(count, count, f"{unit}s")
            raise training.stopped(done_all, watch, self.output)
        return result


def plain(config: Config, sweep: Sweep, splits: Split) -> None:
    """All configurations on the same folds; the best is chosen on the rows that score it."""
    from digits_jax import summarize
    from digits_jax.search import grids

    scores = sweep.score("folds", splits)
    if not startup.reports():
        return
    order = grids.rank(scores.scores, diverged=scores.diverged)
    best = int(order[0])
    summary = summarize(scores.scores["accuracy"][best], **sizes(splits))
    warning = (
        f"The best of {len(sweep.table)} was chosen on the rows that it is scored on, so its score "
        "is optimistic; --nested scores the choice without bias."
    )
    show(sweep, scores, order, f"{config.folds}-fold cross-validation, {config.epochs} epochs")
    if len(sweep.table) > 1:
        console.errors.print(f"[yellow]{warning}[/]", soft_wrap=True)
    write(
        config,
        sweep,
        scores,
        order,
        "Accuracy",
        {
            "best": sweep.table[best] | {"accuracy": summary_json("accuracy", summary)},
            "warning": warning if len(sweep.table) > 1 else None,
        },
    )


def nested(config: Config, sweep: Sweep, outer: Split, inner: Split) -> None:
    """Inner folds choose for each outer split; its test rows score "tune, then train"."""
    from rich.table import Table

    from digits_jax import summarize
    from digits_jax.search import grids
    from digits_jax.search.halving import halving_rungs

    splits = len(outer.train_rows)
    halved: dict[str, Any] | None = None
    if config.halving:
        rungs = ", ".join(map(str, halving_rungs(config.epochs, sweep.count)[:-1])) or "no"
        console.results.print(f"halving after {rungs} epochs", highlight=False)
    scores = (
        sweep.score("halving", inner, splits) if config.halving else sweep.score("inner", inner)
    )
    chosen = choose(scores, splits, config.epochs)
    if config.halving:
        spent = float(scores.epochs.sum() / (scores.epochs.size * config.epochs))
        halved = {"share_of_epochs_trained": spent, "same_winner": None}
        words = f"halving trained {100 * spent:.0f} % of the runs' epochs"
        if config.verify_halving:
            whole = choose(sweep.score("inner", inner), splits, config.epochs)
            halved["same_winner"] = (whole == chosen).tolist()
            words += f"; the winner is the same in {(whole == chosen).sum()} of {splits} splits"
        console.results.print(words, highlight=False, soft_wrap=True)
    accuracy, diverged = sweep.final("outer", outer, chosen)
    if not startup.reports():
        return
    by_split = scores.scores["accuracy"].reshape(len(sweep.table), splits, -1).mean(axis=2)
    order = grids.rank(scores.scores, diverged=scores.diverged)
    when = "when last scored" if config.halving else f"{config.epochs} epochs"
    show(sweep, scores, order, f"Inner validation over all outer splits, {when}")

    summary = summarize(accuracy, **sizes(outer))
    names = varied(sweep)
    table = Table(title="Nested cross-validation: tune, then train")
    for column in ("outer split", *names, "validation (%)", "test (%)"):
        table.add_column(column.replace("_", " "), justify="right")
    rows = []
    for o, k in enumerate(chosen.tolist()):
        row = {"outer_split": o + 1, **sweep.table[k], "validation_accuracy": by_split[k, o]}
        rows.append(row | {"accuracy": accuracy[o], "diverged": bool(diverged[o])})
        cells = [text(row[name]) for name in names]
        test = f"{100 * accuracy[o]:.2f}{' diverged' if diverged[o] else ''}"
        table.add_row(str(o + 1), *cells, f"{100 * by_split[k, o]:.2f}", test)
    table.add_section()
    middle = [""] * (len(names) + 1)
    table.add_row("mean ± sd", *middle, f"{100 * summary.mean:.2f} ± {100 * summary.std:.2f}")
    unbiased = summary_json("accuracy", summary)
    low, high = unbiased["ci95"]
    table.add_row("95 % interval", *middle, f"{100 * low:.2f} to {100 * high:.2f}")
    console.results.print(table)
    write(
        config,
        sweep,
        scores,
        order,
        "Inner validation accuracy",
        {"outer_splits": rows, "accuracy": unbiased, "halving": halved},
    )


def masked(scores: Scores, epochs: int) -> np.ndarray:
    """The losses, NaN for a configuration that was dropped before the last epoch."""
    import numpy as np

    return np.where(scores.epochs < epochs, np.nan, scores.scores["loss"])


def choose(scores: Scores, splits: int, epochs: int) -> np.ndarray:
    """The best configuration [O] for each outer split, by its inner scores [K, O * I] alone."""
    from digits_jax.search import grids

    accuracy = scores.scores["accuracy"]
    shape = (len(accuracy), splits, -1)
    accuracy, loss, diverged = (
        each.reshape(shape).swapaxes(0, 1)
        for each in (accuracy, masked(scores, epochs), scores.diverged)
    )
    return grids.rank({"accuracy": accuracy, "loss": loss}, diverged=diverged)[:, 0]


def sizes(splits: Split) -> dict[str, Any]:
    """Rows of a split, for the corrected interval."""
    return {
        "train_rows": float(splits.train_weights.sum(1).mean()),
        "test_rows": float(splits.test_weights.sum(1).mean()),
    }


def varied(sweep: Sweep) -> list[str]:
    """The names that take more than one value."""
    return [name for name in sweep.table[0] if len({row[name] for row in sweep.table}) > 1]


def text(value: Any) -> str:
    """A cell of a table."""
    return value if isinstance(value, str) else f"{value:.4g}"


def show(sweep: Sweep, scores: Scores, order: np.ndarray, title: str) -> None:
    """The best configurations on the console."""
    from rich.table import Table

    names = varied(sweep)
    table = Table(title=title)
    for column in ("rank", *names, "loss (nats)", "accuracy (%)", "diverged"):
        table.add_column(column.replace("_", " "), justify="right")
    diverged = scores.diverged.sum(axis=1)
    for i, k in enumerate(order[:SHOWN].tolist()):
        accuracy, loss = 100 * scores.scores["accuracy"][k], scores.scores["loss"][k]
        table.add_row(
            str(i + 1),
            *(text(sweep.table[k][name]) for name in names),
            f"{loss.mean():.4f}",
            f"{accuracy.mean():.2f} ± {accuracy.std():.2f}",
            f"{diverged[k]} of {len(loss)}" if diverged[k] else "",
        )
    console.results.print(table)
    if len(order) > SHOWN:
        console.results.print(f"({len(order) - SHOWN} more in configurations.csv)")


def write(
    config: Config,
    sweep: Sweep,
    scores: Scores,
    order: np.ndarray,
    label: str,
    content: dict[str, Any],
) -> None:
    """The table, the arrays and the figures; ``results.json`` last."""
    import numpy as np

    from digits_jax import plots
    from report import searches

    rows = []
    for i, k in enumerate(order.tolist()):
        row = {"rank": i + 1, **sweep.table[k]}
        row |= {
            "accuracy": scores.scores["accuracy"][k].mean(),
            "accuracy_sd": scores.scores["accuracy"][k].std(),
        }
        row |= {"loss": scores.scores["loss"][k].mean(), "epochs": scores.epochs[k].mean()}
        rows.append(row | {"diverged": int(scores.diverged[k].sum())})
    sweep.output.table("configurations.csv", rows)
    sweep.output.arrays(
        "scores.npz",
        **scores.scores,
        epochs=scores.epochs,
        diverged=scores.diverged,
        **{name: [row[name] for row in sweep.table] for name in sweep.table[0]},
    )
    finite = np.where(scores.diverged, np.nan, scores.scores["accuracy"])
    columns = {name: [row[name] for row in sweep.table] for name in varied(sweep)}
    figures = {}
    if columns and not np.isnan(finite).all():
        figures["effects"] = plots.effects(columns, finite, label=label, log=LOGARITHMIC)
    for pair in itertools.combinations([n for n in columns if not n.endswith("activation")], 2):
        means = np.array([row.mean() for row in finite])
        x, y = (columns[name] for name in pair)
        if not np.isnan(means).all():
            figure = plots.pair(x, y, means, pair, label=label, log=LOGARITHMIC)
            figures["_".join(pair)] = figure
    for name, figure in figures.items():
        formats = ("png", "svg") if config.svg else ("png",)
        plots.save(figure, sweep.output.folder / name, formats)
    total = time.perf_counter() - STARTED
    results = {
        "experiment": "sweep",
        **describe(config, sweep.dataset.provenance),
        "configurations": rows,
        **content,
        "waves": sweep.waves,
        "seconds": {"total": total},
    }
    page = searches.sweep(results, columns=columns, scores=finite, label=label, log=LOGARITHMIC)
    sweep.output.text("report.html", page)
    sweep.output.json("results.json", results)
    console.results.print(
        f"{total:.1f} s. Written to {sweep.output.folder}/: report.html, results.json, "
        "configurations.csv, scores.npz, figures, waves/",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
