"""Predictions of the methods of ``methods.py``, each made once and kept in the output folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape

import baselines
import digits_jax as dj
import methods
from common import console, options, plans, training
from common.options import usage_errors
from common.output import Output
from common.plans import Plan
from common.tasks import Task
from digits_jax.runs.checks import check_data
from digits_jax.runs.identity import describe, describe_program
from digits_jax.runs.preparation import prepare
from digits_jax.runs.refusals import refuse_other_training
from digits_jax.storage.errors import CheckpointError
from methods import Predictions, title


def predict_all(
    config: methods.Options, task: Task, splits: dj.Split, names: list[str], output: Output
) -> dict[str, Predictions]:
    """The predictions of all methods asked for; ``names`` are those of the splits [R]."""
    found = sorted(path.name for path in output.folder.glob("predictions_*.npz"))
    options.require(
        config.resume or not found,
        f"{output.folder} holds {''.join(found[:1])} already; add --resume to go on with it, or "
        "choose another --output-dir",
    )
    chosen = config.chosen(task)
    networks = {
        name: plans.load_plan(methods.voters(name)[0], task, epochs=config.epochs)
        for name in chosen
        if methods.is_network(name)
    }
    for name in set(chosen) - set(networks):
        baselines.estimator(name, config.seed)  # what is not installed is said now
    output.claim()
    done: dict[str, Predictions] = {}
    for name in chosen:
        path = output.folder / f"predictions_{methods.file_name(name)}.npz"
        if name in networks:
            plan, (_, members) = networks[name], methods.voters(name)
            h = plan.hyperparameters
            runs = dj.make_runs(splits, h, members=members, seed=config.seed)
            identity = _identity(plan, runs, task)
        else:
            identity = baselines.identity(name, task, splits, config.seed)
        if path.exists():
            done[name] = _reused(path, identity)
            console.say(escape(f"{title(name)}: from {path}"), console.notes)
        else:
            if name in networks:
                done[name] = _predict(config, name, plan, runs, task, names, output)
            else:
                done[name] = baselines.predict(name, task, splits, config.seed)
            _save(path, done[name], identity, output)
        accuracy = 100 * done[name].accuracies(task.targets).mean()
        who = escape(title(name))
        console.say(
            f"{who}: {accuracy:.2f} % of the test rows, mean of {len(names)} splits; "
            f"{done[name].seconds:.0f} s",
            console.notes,
        )
    return done


def _identity(plan: Plan, runs: dj.Run, task: Task) -> dict[str, Any]:
    """Of what a network trains on these data, and by which program."""
    data = check_data(task.data)
    complete, state = prepare(data, runs, plan.recipe, plan.epochs)
    device = jax.devices()[0]
    return {
        "epochs": plan.epochs,
        **describe(data, runs, plan.recipe),
        **describe_program(data, complete, plan.recipe, state, device=device),
    }


def _predict(
    config: methods.Options,
    name: str,
    plan: Plan,
    runs: dj.Run,
    task: Task,
    names: list[str],
    output: Output,
) -> Predictions:
    """A network's predictions, or the votes of several on each split."""
    console.say(f"{escape(title(name))}:", console.notes)
    _, members = methods.voters(name)
    numbers = [f", member {m + 1}" for m in range(members)] if members > 1 else [""]
    of_runs = [each + number for number in numbers for each in names]
    part = methods.file_name(name)
    result = training.train(config, task.data, plan, runs, of_runs, output, part=part)
    logits = result.outputs
    vote = f"{plan.name} gives no logits of the classes, and can't vote"
    options.require(task.has_logits(logits), vote)
    diverged = ~np.isfinite(logits).all((1, 2))
    options.require(not diverged.any(), f"{plan.name} diverged: {of_runs[int(diverged.argmax())]}")
    if members > 1:
        each = logits.reshape(members, len(names), *logits.shape[1:])
        combine = plan.recipe.combined
        logits = np.stack([np.asarray(combine(each[:, i])) for i in range(len(names))])
    rows = result.test_rows[: len(names)]
    predicted = np.where(rows >= 0, logits.argmax(axis=-1), -1).astype(np.int32)
    seconds = sum(result.seconds.values())
    return Predictions(rows, predicted, logits, seconds, [{} for _ in names])


def _save(path: Path, done: Predictions, identity: dict[str, Any], output: Output) -> None:
    about = {"identity": identity, "seconds": done.seconds, "chosen": done.chosen}
    output.arrays(
        path.name,
        rows=done.rows,
        predicted=done.predicted,
        logits=done.logits,
        about=json.dumps(about),
    )


def _reused(path: Path, wanted: dict[str, Any]) -> Predictions:
    """Predictions of an earlier run, which must be of the same training."""
    done, known = methods.load(path)
    with usage_errors(kinds=(CheckpointError,)):
        remedy = "delete it, or choose another --output-dir"
        refuse_other_training(path, known, wanted, remedy=remedy)
    return done
