"""What training many runs gives: progress, an interruption, the result.

Shapes: R runs, S test rows, E epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from digits_jax import statistics
from digits_jax.runs.axis import leaf_name, take_run
from digits_jax.splits import kinds, test_sizes, train_sizes
from digits_jax.structures import Run, TrainState

History = Mapping[str, npt.NDArray[np.float32]]


class Progress(NamedTuple):
    """What ``cross_validate`` reports after each call of the compiled program.

    Attributes:
        epoch: epochs done.
        epochs: epochs to do in all.
        history: float32 [R, epoch] by name, on the host.
    """

    epoch: int
    epochs: int
    history: History


class ScoreSummary(NamedTuple):
    """The mean of a score over runs, with its error bar.

    Attributes:
        mean: over the runs.
        sd: standard deviation between the runs (ddof 0, as ``np.std``).
        ci95: 95 % confidence interval of the mean, (low, high), corrected for shared training rows
            (Nadeau and Bengio 2003); NaN where there is none.
        n: runs that it is a mean of.
        diverged: the runs that diverged, by index; see ``CrossValidation.diverged``.
        note: how the interval was made, where it is not the corrected one.
    """

    mean: float
    sd: float
    ci95: tuple[float, float]
    n: int
    diverged: tuple[int, ...]
    note: str

    def __str__(self) -> str:
        text = f"{self.mean:.4g} ± {self.sd:.2g}"
        runs = f"{self.n} run" + "s" * (self.n != 1)
        if np.isfinite(self.ci95).all():
            text += f" (95 % interval {self.ci95[0]:.4g} to {self.ci95[1]:.4g}, {runs})"
        else:
            text += f" ({runs})"
        if self.diverged:
            text += f"; {len(self.diverged)} diverged"
        return text + (f"; {self.note}" if self.note else "")


@dataclasses.dataclass(frozen=True, repr=False)
class CrossValidation:
    """The result of ``cross_validate``: NumPy arrays on the host, a leading axis R of runs.

    In a job of several processes each has all of it but the states. They stay on the devices,
    sharded over the processes: every leaf is a ``jax.Array`` [R + padding, ...].

    Attributes:
        states: every leaf [R, ...]; empty where there were several waves (``wave_size``), which
            keep them in their checkpoints alone. With ``keep="best"`` the weights are those of the
            best epoch.
        history: float32 [R, E] by name: "loss", what training minimized, the recipe's metrics, and
            the same with "validation_" before; NaN after a stop.
        scores: float64 [R] by name, weighted means over the test rows: "loss", without
            regularisation, and the metrics; NaN for a run without test rows.
        validation: float64 [R] by name, the same scores on the validation rows, of the weights that
            are tested; {} without validation rows. They may choose, as test rows may not.
        outputs: of the test rows, [R, S, ...], for class logits float32 [R, S, K].
        test_rows: int32 [R, S], row numbers; -1 is padding.
        targets: of the test rows, [R, S, ...].
        epochs: int32 [R], epochs trained.
        best_epochs: int32 [R], the best epoch by the recipe's monitor; ``epochs`` where none was
            watched.
        initial_loss: float32 [R], training loss of the first batch before the first step.
        runs: that were trained.
        votes: scores of the members' combined outputs, float64 [R / M] by name; None without
            members.
        seconds: compile, train (with checkpoints), evaluate.
    """

    states: TrainState
    history: History
    scores: Mapping[str, npt.NDArray[np.float64]]
    validation: Mapping[str, npt.NDArray[np.float64]]
    outputs: Any
    test_rows: npt.NDArray[np.int32]
    targets: Any
    epochs: npt.NDArray[np.int32]
    best_epochs: npt.NDArray[np.int32]
    initial_loss: npt.NDArray[np.float32]
    runs: Run
    votes: Mapping[str, npt.NDArray[np.float64]] | None
    seconds: dict[str, float]

    def __repr__(self) -> str:
        tested = int((self.test_rows >= 0).any(axis=1).sum())
        means = [
            f"{name} {np.nanmean(values):.4g}"
            for name, values in self.scores.items()
            if np.isfinite(values).any()
        ]
        diverged = int((self.diverged > 0).sum())
        parts = [f"{len(self.epochs)} runs ({tested} tested), {self.epochs.max()} epochs", *means]
        return f"CrossValidation({', '.join(parts + [f'{diverged} diverged'] * bool(diverged))})"

    def state(self, index: int) -> TrainState:
        """The state of one run, to predict with."""
        state: TrainState = take_run(self.states, index)
        return state

    def score(self, function: Callable[[Any, Any], float]) -> npt.NDArray[np.float64]:
        """A score of all of a run's test rows together, on the host: any metric of scikit-learn.

        Args:
            function: ``function(targets, outputs)``, of the run's real test rows.

        Returns:
            float64 [R]; NaN for a run without test rows.
        """
        values = np.full(len(self.epochs), np.nan)
        for run, rows in enumerate(self.test_rows):
            real = rows >= 0
            if real.any():
                targets, outputs = jax.tree.map(
                    lambda leaf, run=run, real=real: leaf[run][real], (self.targets, self.outputs)
                )
                values[run] = function(targets, outputs)
        return values

    @property
    def diverged(self) -> npt.NDArray[np.int32]:
        """The epoch, from 1, since which each run's training has failed: int32 [R]; 0 for none.

        Failed is an epoch whose mean training loss is not finite, or far above the untrained
        network's: above L + abs(L), L being the loss of the first batch before any step. A run
        whose loss falls below that limit again counts as converging. Outputs that are not finite
        after the last epoch count for that epoch.
        """
        finite = np.ones(len(self.epochs), bool)
        for leaf in jax.tree.leaves(self.outputs):
            if np.issubdtype(leaf.dtype, np.inexact):
                finite &= np.isfinite(leaf.reshape(len(finite), -1)).all(axis=1)
        return diverged_since(self.history["loss"], self.initial_loss, self.epochs, finite)

    def summary(
        self,
        name: str = "accuracy",
        *,
        runs: Sequence[int] | slice | None = None,
        diverged: str = "include",
        votes: bool = False,
    ) -> ScoreSummary:
        """Mean, spread and 95 % interval of a score over the tested runs.

        The members of a run count once, by their mean: they were tested on the same rows.

        Args:
            name: of ``scores``.
            runs: which runs, by index. Default: all that have test rows (a refit has none).
            diverged: "include" counts all; "exclude" leaves those that diverged out.
            votes: the score of the members' combined outputs instead.

        Raises:
            KeyError: there is no such score.
            ValueError: no run is left, or the runs have different hyperparameters, whose mean says
                nothing: pick one configuration's with ``runs``.
        """
        if name not in self.scores:
            raise KeyError(f"there is no score {name!r}; there are {', '.join(self.scores)}")
        if diverged not in ("include", "exclude"):
            raise ValueError(f'diverged must be "include" or "exclude", not {diverged!r}')
        tested = np.asarray((self.test_rows >= 0).any(axis=1))
        chosen: npt.NDArray[np.intp] = np.flatnonzero(tested)
        if runs is not None:
            chosen = np.atleast_1d(np.arange(len(tested))[runs])
            if not tested[chosen].all():
                raise ValueError("some of the runs have no test rows (a refit has none)")
        failed = chosen[self.diverged[chosen] > 0]
        if diverged == "exclude":
            chosen = np.setdiff1d(chosen, failed)
        if not len(chosen):
            raise ValueError("there is no run to summarize")
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.runs.hyperparameters):
            different: Any = np.asarray(leaf)[chosen] != np.asarray(leaf)[chosen[:1]]
            if np.any(different):
                raise ValueError(
                    f"the runs differ in the hyperparameter {leaf_name(path)}, and their mean says "
                    "nothing of either; pick one configuration's with runs="
                )
        values = self.scores[name][chosen]
        if self.runs.member is not None:
            values, chosen = self._by_run(name, chosen, votes)
        elif votes:
            raise ValueError("there are no votes: the runs were made without members")
        failures = tuple(failed.tolist())
        if not np.isfinite(values).all():
            nan = float("nan")
            note = 'a score is not finite; diverged="exclude" leaves such runs out'
            mean, sd = float(np.mean(values)), float(np.std(values))
            return ScoreSummary(mean, sd, (nan, nan), len(values), failures, note)
        found = statistics.summarize(
            values,
            train_rows=float(train_sizes(self.runs.split)[chosen].mean()),
            test_rows=float(test_sizes(self.runs.split)[chosen].mean()),
            kind=kinds(self.runs.split)[chosen],
        )
        return ScoreSummary(
            found.mean, found.std, found.ci95, found.size, failures, getattr(found, "note", "")
        )

    def _by_run(
        self, name: str, chosen: npt.NDArray[np.intp], votes: bool
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
        """A value for each run that has members among the chosen, and the first of these."""
        count = len(self.epochs) // (int(np.max(self.runs.member)) + 1)
        base, first, which = np.unique(chosen % count, return_index=True, return_inverse=True)
        if votes:
            assert self.votes is not None
            return self.votes[name][base], chosen[first]
        sums = np.bincount(which, self.scores[name][chosen])
        return sums / np.bincount(which), chosen[first]

    def table(self) -> Any:
        """A row for each run: its scores, epochs, divergence and hyperparameters.

        Returns:
            A pandas DataFrame where pandas is installed, else a list of dicts.
        """
        h = {
            leaf_name(path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(self.runs.hyperparameters)
            if np.ndim(leaf) == 1
        }
        rows = [
            {
                "run": run,
                **{name: float(values[run]) for name, values in self.scores.items()},
                "epochs": int(self.epochs[run]),
                "diverged": int(since),
                **{f"h.{name}": values[run].item() for name, values in h.items()},
            }
            for run, since in enumerate(self.diverged)
        ]
        return _as_table(rows)

    def predictions(self) -> Any:
        """A row for each tested row of each run: run, row, target and outputs.

        Returns:
            A pandas DataFrame where pandas is installed, else a list of dicts. An output or target
            of several numbers has a column for each.
        """
        rows = []
        for run, tested in enumerate(self.test_rows):
            for place in np.flatnonzero(tested >= 0):
                row: dict[str, Any] = {"run": run, "row": int(tested[place])}
                for what, tree in (("target", self.targets), ("output", self.outputs)):
                    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                        name = f"{what}.{leaf_name(path)}" if path else what
                        values = np.asarray(leaf[run, place]).reshape(-1)
                        if np.ndim(leaf[run, place]) == 0:
                            row[name] = values[0].item()
                        else:
                            row |= {f"{name}_{i}": v.item() for i, v in enumerate(values)}
                rows.append(row)
        return _as_table(rows)


def _as_table(rows: list[dict[str, Any]]) -> Any:
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def validation_scores(history: History, place: npt.NDArray[np.integer]) -> dict[str, Any]:
    """Scores on the validation rows [R] by name, from a history [R, E].

    Args:
        history: with names that begin with "validation_", or without.
        place: int [R], which of the E epochs; NaN where it is before the first.
    """
    runs = np.arange(len(place))
    return {
        name.removeprefix("validation_"): np.where(
            place >= 0, values[runs, np.maximum(place, 0)], np.nan
        ).astype(np.float64)
        for name, values in history.items()
        if name.startswith("validation_")
    }


def diverged_since(
    loss: npt.ArrayLike, initial_loss: npt.ArrayLike, epochs: npt.ArrayLike, finite: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """The epoch since which each run has failed; see ``CrossValidation.diverged``.

    Args:
        loss: training loss, [R, E].
        initial_loss: of the untrained network, [R].
        epochs: trained, [R]; the loss after them does not count.
        finite: bool [R], whether the outputs after the last epoch are finite.
    """
    losses, initial = np.asarray(loss, np.float64), np.asarray(initial_loss, np.float64)
    count = losses.shape[1]
    # Of states that are gone on with, the last ``count`` epochs are here.
    ends = np.minimum(np.asarray(epochs), count)
    limit = np.where(np.isfinite(initial), initial + np.abs(initial), np.inf)[:, np.newaxis]
    with np.errstate(invalid="ignore"):
        failed = ~(np.isfinite(losses) & (losses <= limit))
    place = np.arange(count)[np.newaxis]
    failed[(place == ends[:, np.newaxis] - 1) & ~np.asarray(finite)[:, np.newaxis]] = True
    failed |= place >= ends[:, np.newaxis]  # after a stop
    to_the_end = np.logical_and.accumulate(failed[:, ::-1], axis=1).sum(axis=1)
    since = count + 1 - to_the_end
    return np.where(since <= ends, since, 0).astype(np.int32)


class Interrupted(Exception):
    """``on_epoch`` asked to stop; all that was trained is in the checkpoint, if there is one."""

    def __init__(self, epoch: int, epochs: int, of: str = "") -> None:
        super().__init__(f"stopped after {epoch} of {epochs} epochs{of}")
        self.epoch = epoch
