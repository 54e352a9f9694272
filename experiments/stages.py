"""What ``sweep.py`` trains: the configurations of each program, stage by stage, in waves.

A structure is what one program trains: a recipe with a batch size and fields of its network. All
its configurations, of hyperparameters alone, train at once. K is the number of configurations of
all structures together, F of splits, O of outer splits.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpy.typing as npt
import psutil
from rich.markup import escape

import digits_jax as dj
from common import console, options, plans, progress, startup, training
from common.options import require, usage_errors
from common.output import STARTED, Output
from common.scores import counted, scores_of
from digits_jax.runs.identity import named_leaves
from digits_jax.search import grids, halving

if TYPE_CHECKING:
    from common.plans import Plan
    from common.tasks import Task
    from sweep import Config

LAWS = {"": dj.uniform, "log": dj.log_uniform, "decay": dj.decay}


class Structure:
    """What one program trains: a recipe and its fixed settings, with C configurations of h."""

    def __init__(self, plan: Plan, fixed: dict[str, Any], h: Any, names: Sequence[str]) -> None:
        leaves = named_leaves(h)
        self.plan = plan
        self.count = max(map(len, leaves.values()), default=1)
        # As decimal digits: a float32 of 0.0003 is 0.0003, not 0.0003000000142492354.
        self.table: list[dict[str, Any]] = [
            {"recipe": plan.name, **fixed}
            | {name: _decimal(leaves[name][c]) for name in names if name in leaves}
            for c in range(self.count)
        ]
        monitor = plan.recipe.monitor
        if monitor == "loss" and plan.name in dj.RECIPES:
            monitor = ("accuracy", "max")
        self.recipe = dataclasses.replace(plan.recipe, monitor=monitor)
        spread = functools.partial(_spread, count=self.count)
        self.h = jax.tree.map(spread, h) if leaves else {"": np.zeros(self.count)}


def _decimal(value: Any) -> Any:
    number = np.asarray(value)
    return float(str(np.float32(number))) if number.dtype.kind == "f" else number.item()


def _spread(leaf: Any, *, count: int) -> npt.NDArray[Any]:
    """A hyperparameter [C], in the dtype that JAX holds."""
    array = np.asarray(leaf)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return np.array(np.broadcast_to(array, (count,)))


def make_structures(config: Config, task: Task) -> list[Structure]:
    """The programs to train, each with its configurations.

    Raises:
        UsageError: a name is of nothing in the recipe, or a value doesn't fit.
    """
    fixed: dict[str, list[Any]] = {}
    varied: dict[str, Any] = {}
    for name, text in plans.settings(config.vary, "--vary").items():
        if name == "batch_size" or name.startswith("network."):
            fixed[name] = [plans.parsed(value) for value in text.split(",")]
        else:
            varied[name] = _values(name, text)
    found = []
    for recipe in config.recipe:
        plan = plans.load_plan(recipe, task, epochs=config.epochs)
        for values in itertools.product(*fixed.values()):
            chosen = dict(zip(fixed, values, strict=True))
            of = plans.with_settings(plan, chosen, "--vary")
            options.countable(of.epochs, task.rows, of.recipe.batch_size)
            space = plans.with_hyperparameters(of.hyperparameters, varied, "--vary")
            with usage_errors("--vary: "):
                if config.random is None:
                    h = dj.grid(space)
                else:
                    h = dj.random_search(space, config.random, seed=config.seed)
                _check(h)
            found.append(Structure(of, chosen, h, list(varied)))
    return found


def _values(name: str, text: str) -> Any:
    """A list of values or, of LOW:HIGH, a law."""
    if ":" not in text:
        values = [plans.parsed(value) for value in text.split(",")]
        words = [value for value in values if isinstance(value, str)]
        require(not words, f"--vary {name}={text}: {', '.join(words)} is no number")
        return values
    low, _, rest = text.partition(":")
    high, _, law = rest.partition(":")
    ends = [plans.parsed(end) for end in (low, high)]
    fits = law in LAWS and not any(isinstance(end, str) for end in ends)
    require(fits, f"--vary {name}={text}: write a range as LOW:HIGH, LOW:HIGH:log or :decay")
    with usage_errors(f"--vary {name}={text}: "):
        return LAWS[law](*map(float, ends))


def _check(h: Any) -> None:
    """Raises ValueError for a configuration that hyperparameters with a check refuse."""
    if hasattr(h, "check"):
        for c in range(grids.configurations_count(h)):
            jax.tree.map(lambda leaf, c=c: leaf[c].item(), h).check()


class Sweep:
    """What the stages of a sweep share: configurations, data, folder, signals, and the tally."""

    def __init__(
        self, config: Config, task: Task, structures: list[Structure], output: Output
    ) -> None:
        self.config, self.task, self.output = config, task, output
        self.structures = structures
        self.waves: list[dict[str, Any]] = []
        self.table = [row for structure in structures for row in structure.table]
        counts = [structure.count for structure in structures]
        self.starts = np.cumsum([0, *counts])
        self.epochs = np.repeat([each.plan.epochs for each in structures], counts)  # [K]
        self.scores = scores_of(structures[0].recipe)
        same = all(scores_of(each.recipe) == self.scores for each in structures)
        require(same, "the recipes have different scores, and can't be compared")
        self.monitor = structures[0].recipe.monitor
        chosen = self.monitor if isinstance(self.monitor, str) else self.monitor[0]
        self.score = next(each for each in self.scores if each.name == chosen)

    @property
    def varied(self) -> list[str]:
        """The names that take more than one value."""
        names = dict.fromkeys(name for row in self.table for name in row)
        return [name for name in names if len({str(row.get(name)) for row in self.table}) > 1]

    def all_on(self, stage: str, splits: dj.Split, groups: int | None = None) -> grids.Scores:
        """All configurations on all splits: [K, F], structure by structure.

        With ``groups``, the splits are in so many groups, each of which is halved by itself.
        """
        parts = []
        for s, structure in enumerate(self.structures):
            runs = structure.count * self.config.seeds * len(splits.train_rows)
            work: Callable[..., Any]
            if groups is None:
                work = functools.partial(grids.train_grid, self.task.data, structure.h, splits)
                unit, count = "run", runs
            else:
                work = functools.partial(
                    halving.halve_grid, self.task.data, structure.h, splits, groups
                )
                unit, count = "outer split", groups
            name = f"{stage}-{s}"
            parts.append(self.watched(work, name, structure, count, unit=unit, runs=runs))
        joined: grids.Scores = jax.tree.map(lambda *each: np.concatenate(each), *parts)
        return joined

    def chosen_on(self, stage: str, outer: dj.Split, chosen: npt.NDArray[Any]) -> grids.Scores:
        """Configuration chosen[o] on outer split o: scores [O]."""
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
        runs: int | None = None,
    ) -> Any:
        """Work in waves, with progress, a tally of time and memory, and a stop at a signal.

        ``count`` is of units; ``runs`` trains, where that is another number.
        """
        done, config = 0, self.config
        before, here = 0, 1.0  # epochs of earlier rungs; part of all runs that train now

        def on_wave(now: int) -> bool:
            nonlocal done
            done = now
            seconds, memory = time.perf_counter() - STARTED, psutil.Process().memory_info().rss
            tally = {"stage": stage, "done": now, "seconds": seconds, "resident_bytes": memory}
            self.waves.append(tally)
            return watch.signal is not None

        def on_epoch(progress: dj.Progress) -> bool:
            nonlocal here, before
            training_now = len(progress.history["loss"])
            if before == 0:  # the first rung of --halving, or all epochs at once
                here = training_now / (runs or count)
            epoch = before + progress.epoch
            if progress.epoch == progress.epochs:
                before = epoch % structure.plan.epochs
            now = dj.Progress(epoch, structure.plan.epochs, progress.history)
            return watch.on_epoch(now, what=counted(training_now, "run"), done=done, part=here)

        folder = self.output.waves / stage
        saved = len(list(folder.glob("wave-*.npz")))
        if config.resume and saved:
            going_on = f"{stage}: going on after {counted(saved, 'wave')}, from {folder}"
            console.say(escape(going_on), console.notes)
        what = counted(runs or count, "run")
        with progress.Watch(count, what=what, unit=unit, score=self.scores[0]) as watch:
            try:
                with structure.plan.naming_mistakes():
                    result = work(
                        folder=folder,
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
            except dj.WavesInterrupted as stop:
                raise training.stopped(stop, watch, self.output) from stop
        if startup.anywhere(watch.signal is not None):  # in the last wave of this stage
            done_all = dj.WavesInterrupted(count, count, f"{unit}s")
            raise training.stopped(done_all, watch, self.output)
        return result

    @property
    def rungs(self) -> list[int]:
        """Epochs after which --halving drops configurations, of the first structure."""
        first = self.structures[0]
        return halving.halving_rungs(first.plan.epochs, first.count)[:-1]

    def rank(self, scores: grids.Scores) -> list[int]:
        """The configurations [K], the best first."""
        found = grids.rank(deciding(scores), self.monitor, diverged=scores.diverged)
        order: list[int] = found.tolist()
        return order

    def of_chosen(self, scores: grids.Scores, chosen: npt.NDArray[Any]) -> grids.Scores:
        """Of scores [K, O], those [O] of configuration chosen[o] on outer split o."""
        at = chosen, np.arange(len(chosen))
        tested = {name: each[at] for name, each in scores.scores.items()}
        return grids.Scores(tested, {}, scores.epochs[at], scores.diverged[at])

    def choose(self, scores: grids.Scores, splits: int) -> npt.NDArray[np.intp]:
        """The best configuration [O] for each outer split, by its own rows that choose alone."""
        # What was dropped has no loss after the last epoch, and can't be chosen.
        dropped = scores.epochs < self.epochs[:, None]

        def by_split(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return values.reshape(len(values), splits, -1).swapaxes(0, 1)

        found = {
            name: by_split(np.where(dropped, np.nan, values))
            for name, values in deciding(scores).items()
        }
        diverged = by_split(scores.diverged)
        order: npt.NDArray[np.intp] = grids.rank(found, self.monitor, diverged=diverged)
        return order[:, 0]


def deciding(scores: grids.Scores) -> dict[str, npt.NDArray[Any]]:
    """The scores that choose: of validation rows, or of the test rows of inner folds."""
    return scores.validation or scores.scores
