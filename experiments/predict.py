"""Reads digits with trained models: rows of a CSV, or image files; all fold models vote.

    python experiments/predict.py --checkpoint runs/cross_validate/DATE --images photo.jpg scan.png
    python experiments/predict.py --checkpoint runs/cross_validate/DATE --rows digits.csv
    python experiments/predict.py --checkpoint ... --rows bundled --index 59 60 --run refit
    python experiments/predict.py --checkpoint ... --rows - --format csv < digits.csv > answers.csv

For each input it prints the digit, its probability, the runner-up and its probability, how many of
the models agree and what the others say, and whether the digit is right where a row has a class:

    input     digit      %  runner-up      %  agree   others say  class  distance
    row 37        9  71.20          5  27.02  2 of 3  5: fold 1   9          19.4

The distance is that to the nearest of scikit-learn's 1797 digits which has the class that is
answered (see digits_jax/familiarity.py): 99 % of digits are within 30.4, and what is farther is
unlike any digit. An image that is farther, or that isn't one digit on a plain ground, is not
answered: it is named, the others are answered, and the exit code is 1.

``--format csv`` and ``json`` give the same with full precision, the standard deviation of the
digit's probability over the models (probability_sd) and the smallest one (probability_min); JSON
also all ten probabilities and the answer of each model. Nothing else is on standard output.

The probability of a vote is the mean of the models' probabilities. Each model's are those of its
temperature, where it was trained with validation rows (--validation) to fit one on. The refit on
all rows has no vote, because none of its rows were kept from it: it is the model to deploy by
itself, and ``--run refit`` asks it alone. Nor is the fraction of rows that are right here a test on
rows that the models were trained on; cross_validate.py does that.

Images of 8x8 pixels are taken as they are, larger ones go through the data's own preprocessing
(see digits_jax/preprocessing.py): one digit, on a plain background, either darker or lighter.
``--sheet`` draws what the networks saw of each.
It takes 4 s on two CPU cores, most of it to start and to compile; 1797 rows and 3 models, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from rich.markup import escape

import digits_jax as dj
from answers import Input, answer_of, as_csv, as_table, as_text, sheet
from common import command_line, console, options, resuming, startup, training
from common.scores import counted
from digits_jax.calibration import load_temperatures
from digits_jax.data import read_rows
from digits_jax.familiarity import FAMILIAR
from digits_jax.layouts import Rows
from digits_jax.storage.errors import CheckpointError
from digits_jax.storage.files import whole_file
from digits_jax.tables import read_table

if TYPE_CHECKING:
    import jax

BATCH = 128  # inputs that all models read at once
REFIT = "refit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line."""

    checkpoint: Path
    """The output folder of a training script, or its folder checkpoints."""
    rows: str | None = None
    """Rows to read: a table with or without the class, - for one from standard input, or bundled
    or uci."""
    index: tuple[int, ...] = ()
    """Row numbers to take of --rows, from 0. Default: all."""
    images: tuple[Path, ...] = ()
    """Image files, one digit each."""
    run: str | None = None
    """One model to ask alone: its name, such as "fold 2" or refit, or its number, from 1. Default:
    all but the refit vote."""
    format: Literal["table", "csv", "json"] = "table"
    """Form of what is printed or written."""
    output: Path | None = None
    """File to write to instead of standard output."""
    sheet: Path | None = None
    """File to draw into what was seen of each input: .png, .svg or .pdf."""
    compilation_cache: bool = True
    """Compiled programs kept in the user's cache folder, so that the next start is quick."""


def main(config: Config) -> None:
    """Loads the models and the inputs, predicts, and shows or writes the answers."""
    options.require(
        config.rows is not None or bool(config.images), "nothing to read: give --rows or --images"
    )
    options.require(config.rows is not None or not config.index, "--index needs --rows")
    for row in config.index:
        options.require(row >= 0, f"--index {row}: rows are numbered from 0")
    _check_file(config.output, "--output")
    _check_file(config.sheet, "--sheet")
    if config.sheet is not None:
        drawn = config.sheet.suffix.lower() in (".png", ".svg", ".pdf")
        options.require(drawn, f"--sheet {config.sheet}: give a name that ends in .png")
    console.notes.quiet = config.format != "table"  # CSV and JSON are for a program to read
    startup.start_jax(compilation_cache=config.compilation_cache)
    folder = training.checkpoints_in(config.checkpoint)
    saved = load(folder)
    with options.usage_errors():
        temperatures = load_temperatures(folder, epoch=int(saved.states.epoch.max()))
    chosen = choose(saved.names, config.run)
    inputs = read(config)
    counts = [given.counts for given in inputs if given.counts is not None]
    refused = {given.name: given.refused for given in inputs if given.counts is None}
    if not counts:
        raise dj.DataError(next(iter(refused.values())))
    by_model, models = probabilities(saved, np.stack(counts), chosen, temperatures)
    answers = []
    for i, given in enumerate(given for given in inputs if given.counts is not None):
        said = answer_of(given, by_model[:, i], models, details=config.format == "json")
        if given.row is None and not said["familiar"]:
            refused[given.name] = (
                f"{given.name}: unlike any digit: at {said['distance']:.1f} from the nearest of its"
                f" class, where 99 % of digits are within {FAMILIAR} (the answer would be"
                f" {said['digit']})"
            )
        else:
            answers.append(said)
    if config.sheet is not None:
        sheet(inputs, {said["input"]: said for said in answers}, config.sheet)
    if not answers:
        raise dj.DataError(next(iter(refused.values())))
    show(config, answers, models, refused)
    for why in refused.values():
        console.say(f"[bold red]not answered:[/] {escape(why)}", console.errors)
    if refused:
        sys.exit(1)


def load(folder: Path) -> dj.Saved:
    """The models of a recipe by name."""
    try:
        return dj.load_states(folder)
    except CheckpointError as error:
        who = "a recipe of yours"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            begun_with = (folder.parent / resuming.FILE).read_text(encoding="utf-8")
            who = json.loads(begun_with)["options"]["recipe"]
        options.require(
            "of no recipe by name" not in str(error),
            f"{folder} was trained by {who}; read it from Python: dj.load_states({str(folder)!r}, "
            "recipe=...), see docs/tutorials/own-data.md",
        )
        raise


def _check_file(path: Path | None, flag: str) -> None:
    """Refuses what can't be written to, before any work."""
    if path is None:
        return
    special = path.exists() and not path.is_file()
    options.require(not special, f"{flag} {path} is not a regular file")
    options.require(path.parent.is_dir(), f"{flag} {path}: there is no folder {path.parent}")


def show(
    config: Config,
    answers: Sequence[dict[str, Any]],
    models: Sequence[str],
    refused: Mapping[str, str],
) -> None:
    """Prints or writes the answers."""
    if config.format == "table":
        table = as_table(answers, models)
        if config.output is None:
            console.results.print(table)
            return
        content = as_text(table)
    elif config.format == "csv":
        content = as_csv(answers)
    else:
        document = {
            "experiment": "predict",
            "checkpoint": os.fspath(config.checkpoint),
            "models": models,
            "predictions": answers,
            "refused": [{"input": name, "why": why} for name, why in refused.items()],
        }
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if config.output is None:
        sys.stdout.write(content)
        sys.stdout.flush()  # here, where a reader that is gone is a known error
        return
    with whole_file(config.output) as partial:
        partial.write_text(content, encoding="utf-8")
    console.say(escape(f"{counted(len(answers), 'answer')} written to {config.output}"))


def choose(names: Sequence[str], run: str | None) -> list[int]:
    """The models to ask: one by its name or number, or all that vote."""
    if run is None:
        return [i for i, name in enumerate(names) if name != REFIT] or list(range(len(names)))
    return [training.find_run(names, run)]


def read(config: Config) -> list[Input]:
    """The rows, and then the images; those that can't be read say why."""
    from digits_jax.preprocessing import PreprocessingError, see  # loads SciPy

    inputs: list[Input] = []
    if config.rows is not None:
        rows = load_rows(config.rows)
        count = len(rows.classes)
        for row in config.index or range(count):
            options.require(
                0 <= row < count,
                f"--index {row}: {config.rows} has {count} rows, numbered 0 to {count - 1}",
            )
            label = int(rows.classes[row]) if rows.classes[row] >= 0 else None
            counts = rows.pixels[row].reshape(8, 8)
            inputs.append(Input(name=f"row {row}", row=row, counts=counts, label=label))
    for path in config.images:
        name = os.fspath(path)
        try:
            counts, crop = see(path.expanduser())
        except PreprocessingError as error:
            inputs.append(Input(name=name, refused=str(error)))
        else:
            inputs.append(Input(name=name, counts=counts, crop=crop))
    return inputs


def load_rows(source: str) -> Rows:
    """The rows of a table; their classes may be unknown."""
    if source == "-":
        return read_table(sys.stdin.buffer, "standard input", class_needed=False)
    if source in ("auto", "bundled", "uci"):
        dataset = dj.load_digits(source)
        return Rows(dataset.images.reshape(-1, 64), dataset.labels)
    return read_rows(source, class_needed=False)


def probabilities(
    saved: dj.Saved,
    images: npt.NDArray[np.uint8],
    chosen: Sequence[int],
    temperatures: Mapping[str, float],
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """The probabilities [R, N, K] of the chosen models, without those that diverged, and names [R].

    The logits of a model are divided by its temperature, of ``temperatures`` by its name.
    """
    import jax

    asked = jax.tree.map(lambda leaf: leaf[np.asarray(chosen)], saved.states)
    predict = all_models(saved.recipe)
    count, size = len(images), min(BATCH, len(images))
    images = np.concatenate([images, np.repeat(images[-1:], -count % size, axis=0)])
    asked = jax.device_put(asked._replace(opt_state=()))
    parts = [predict(asked, images[i : i + size]) for i in range(0, count, size)]
    logits = np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :count]
    healthy = np.isfinite(logits).all(axis=(1, 2))
    names = np.array(saved.names)[np.asarray(chosen)]
    for name in names[~healthy]:
        console.say(f"[yellow]{name} diverged in training[/]; it is left out", console.errors)
    options.require(bool(healthy.any()), "every model diverged in training; train again")
    models = names[healthy].tolist()
    divisors = np.array([temperatures.get(name, 1.0) for name in models])
    return dj.metrics.probabilities(logits[healthy] / divisors[:, None, None]), models


@functools.cache
def all_models(recipe: dj.Recipe) -> Callable[..., jax.Array]:
    """The compiled function (states [R, ...], images [B, 8, 8]) -> logits [R, B, K]."""
    import jax

    one = functools.partial(dj.predict, recipe=recipe)
    return jax.jit(jax.vmap(one, in_axes=(0, None)))


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
