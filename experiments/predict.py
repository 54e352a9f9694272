"""Reads digits with trained models: rows of a CSV, or image files; all fold models vote.

    python experiments/predict.py --checkpoint runs/cross_validate/DATE --images photo.jpg scan.png
    python experiments/predict.py --checkpoint runs/cross_validate/DATE --rows digits.csv
    python experiments/predict.py --checkpoint ... --rows bundled --index 59 60 --run refit
    python experiments/predict.py --checkpoint ... --rows - --format csv < digits.csv > answers.csv

For each input it prints the digit, its probability, the runner-up and its probability, how many of
the models agree and what the others say, and whether the digit is right where a row has a class:

    input     digit      %  runner-up      %  agree   others say  class
    row 37        9  71.20          5  27.02  2 of 3  5: fold 1   9

``--format csv`` and ``json`` give the same with full precision, the standard deviation of the
digit's probability over the models (probability_sd) and the smallest one (probability_min); JSON
also all ten probabilities and the answer of each model. Nothing else is on standard output.

The probability of a vote is the mean of the models' probabilities. The refit on all rows has no
vote, because none of its rows were kept from it: it is the model to deploy by itself, and ``--run
refit`` asks it alone. Nor is the fraction of rows that are right here a test on rows that the
models were trained on; cross_validate.py does that.

Images of 8x8 pixels are taken as they are, larger ones go through the data's own preprocessing
(see digits_jax/preprocessing.py): one digit, on a plain background, either darker or lighter.
It takes 4 s on two CPU cores, most of it to start and to compile; 1797 rows and 3 models, too.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common import command_line, console, options, startup, training

if TYPE_CHECKING:
    import jax
    import numpy as np
    import numpy.typing as npt
    from rich.table import Table

    from digits_jax import Dataset, Recipe, TrainState

BATCH = 128  # inputs that all models read at once
REFIT = "refit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The options of the command line."""

    checkpoint: Path
    """The output folder of a training script, or its folder checkpoints."""
    rows: str | None = None
    """Rows to read: a CSV in UCI's layout, with or without the class, - for one from standard
    input, or bundled or uci."""
    index: tuple[int, ...] = ()
    """Row numbers to take of --rows, from 0. Default: all."""
    images: tuple[Path, ...] = ()
    """Image files, one digit each."""
    run: str | None = None
    """Ask one model alone: its name, such as "fold 2" or refit, or its number, from 1. Default:
    all but the refit vote."""
    format: Literal["table", "csv", "json"] = "table"
    """What is printed or written."""
    output: Path | None = None
    """File to write to instead of standard output."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next start is quick."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is to be read."""

    names: list[str]  # "row 59", or the path as given
    rows: list[int | None]  # row number, None for an image
    images: npt.NDArray[np.uint8]  # [N, 8, 8]
    classes: list[int | None]  # the right answer, None where it is unknown


def main(config: Config) -> None:
    """Loads the models and the inputs, predicts, and shows or writes the answers."""
    options.require(
        config.rows is not None or bool(config.images), "nothing to read: give --rows or --images"
    )
    options.require(config.rows is not None or not config.index, "--index needs --rows")
    for row in config.index:
        options.require(row >= 0, f"--index {row}: rows are numbered from 0")
    if config.output is not None:
        special = config.output.exists() and not config.output.is_file()
        options.require(not special, f"--output {config.output} is not a regular file")
        folder = config.output.parent
        options.require(folder.is_dir(), f"--output {config.output}: there is no folder {folder}")
    startup.start_jax(compilation_cache=config.compilation_cache)
    import digits_jax as dj

    saved = dj.load_states(training.checkpoints_in(config.checkpoint))
    states, names = saved.states, saved.names
    chosen = choose(names, config.run)
    inputs = read(config)
    by_model, chosen = probabilities(states, inputs.images, names, chosen, saved.recipe)
    models = [names[i] for i in chosen]
    answers = [
        answer(inputs, i, by_model[:, i], models, details=config.format == "json")
        for i in range(len(inputs.names))
    ]

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
        }
        content = json.dumps(document, indent=2, allow_nan=False) + "\n"
    if config.output is None:
        sys.stdout.write(content)
        sys.stdout.flush()  # here, where a reader that is gone is a known error
        return
    from digits_jax.storage.files import whole_file

    with whole_file(config.output) as partial:
        partial.write_text(content, encoding="utf-8")
    count = f"{len(answers)} answer{'s' * (len(answers) > 1)}"
    console.results.print(
        f"{count} written to {config.output}", highlight=False, markup=False, soft_wrap=True
    )


def choose(names: Sequence[str], run: str | None) -> list[int]:
    """The models to ask: one by its name or number, or all that vote."""
    if run is None:
        return [i for i, name in enumerate(names) if name != REFIT] or list(range(len(names)))
    return [training.find_run(names, run)]


def read(config: Config) -> Inputs:
    """The rows, and then the images."""
    import numpy as np

    from digits_jax.preprocessing import digit_from_image

    names: list[str] = []
    rows: list[int | None] = []
    images: list[npt.NDArray[np.uint8]] = []
    classes: list[int | None] = []
    if config.rows is not None:
        dataset, has_classes = load_rows(config.rows)
        count = len(dataset.labels)
        for row in config.index or range(count):
            options.require(
                0 <= row < count,
                f"--index {row}: {config.rows} has {count} rows, numbered 0 to {count - 1}",
            )
            names.append(f"row {row}")
            rows.append(row)
            images.append(dataset.images[row])
            classes.append(int(dataset.labels[row]) if has_classes else None)
    for path in config.images:
        names.append(os.fspath(path))
        rows.append(None)
        images.append(digit_from_image(path))
        classes.append(None)
    return Inputs(names=names, rows=rows, images=np.stack(images), classes=classes)


def load_rows(source: str) -> tuple[Dataset, bool]:
    """Rows by the library's parser, and whether they have classes.

    A table of 64 columns is given a class 0 for the parser; standard input is put into a file.
    """
    from digits_jax import DataError, load_digits
    from digits_jax.data import MAX_BYTES

    path = Path(source).expanduser()
    if source == "-":
        text = sys.stdin.buffer.read(MAX_BYTES + 1)  # more is refused below
        where = "standard input"
    elif path.is_file():
        with path.open("rb") as file:
            bare = file.readline(2**16).count(b",") == 63
            file.seek(0)
            text = file.read(MAX_BYTES + 1) if bare else b""
        if not bare:
            return load_digits(source), True
        where = source
    else:
        return load_digits(source), True
    lines = text.rstrip().splitlines()
    bare = bool(lines) and lines[0].count(b",") == 63
    if bare:
        header = not any(cell.strip(b' \t"').isdigit() for cell in lines[0].split(b","))
        ends = [b",class" if header and i == 0 else b",0" for i in range(len(lines))]
        lines = [line + end for line, end in zip(lines, ends, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "rows.csv"
        copy.write_bytes(b"\n".join(lines))
        try:
            return load_digits(copy), not bare
        except DataError as error:
            raise DataError(str(error).replace(os.fspath(copy), where)) from error


def probabilities(
    states: TrainState,
    images: npt.NDArray[np.uint8],
    names: Sequence[str],
    chosen: Sequence[int],
    recipe: Recipe,
) -> tuple[npt.NDArray[np.float64], list[int]]:
    """The probabilities [R, N, K] of the chosen models, without those that diverged.

    Returns:
        The probabilities, and the numbers of the models that gave them.
    """
    import jax
    import numpy as np

    from digits_jax.metrics import probabilities as softmax

    asked = jax.tree.map(lambda leaf: leaf[np.asarray(chosen)], states)
    predict = all_models(recipe)
    count, size = len(images), min(BATCH, len(images))
    images = np.concatenate([images, np.repeat(images[-1:], -count % size, axis=0)])
    asked = jax.device_put(asked._replace(opt_state=()))
    parts = [predict(asked, images[i : i + size]) for i in range(0, count, size)]
    logits = np.concatenate([np.asarray(part) for part in parts], axis=1)[:, :count]
    healthy = np.isfinite(logits).all(axis=(1, 2))
    for i, well in zip(chosen, healthy, strict=True):
        if not well:
            console.errors.print(
                f"[yellow]{names[i]} diverged in training[/]; it is left out", highlight=False
            )
    options.require(bool(healthy.any()), "every model diverged in training; train again")
    voters = [i for i, well in zip(chosen, healthy, strict=True) if well]
    return softmax(logits[healthy]), voters


@functools.cache
def all_models(recipe: Recipe) -> Callable[..., jax.Array]:
    """The compiled function (states [R, ...], images [B, 8, 8]) -> logits [R, B, K]."""
    import jax

    import digits_jax as dj

    one = functools.partial(dj.predict, recipe=recipe)
    return jax.jit(jax.vmap(one, in_axes=(0, None)))


def answer(
    inputs: Inputs,
    number: int,
    probabilities: npt.NDArray[np.float64],
    models: Sequence[str],
    *,
    details: bool,
) -> dict[str, Any]:
    """What the models say of one input.

    Args:
        inputs: all of them.
        number: which one.
        probabilities: [R, K], the models' probabilities of it.
        models: R names.
        details: also give the mean probability of each class, and each model's own answer.
    """
    import numpy as np

    mean = probabilities.mean(axis=0)
    first, second = (int(k) for k in np.argsort(-mean, kind="stable")[:2])
    own = probabilities.argmax(axis=1)
    true = inputs.classes[number]
    said: dict[str, Any] = {
        "input": inputs.names[number],
        "row": inputs.rows[number],
        "digit": first,
        "probability": float(mean[first]),
        "runner_up": second,
        "runner_up_probability": float(mean[second]),
        "models": len(models),
        "agree": int((own == first).sum()),
        "probability_sd": float(probabilities[:, first].std(ddof=1)) if len(models) > 1 else None,
        "probability_min": float(probabilities[:, first].min()),
        "class": true,
        "right": None if true is None else first == true,
    }
    others = {k: [m for m, d in zip(models, own, strict=True) if d == k] for k in range(10)}
    said["others"] = "; ".join(
        f"{k}: {', '.join(who)}" for k, who in others.items() if who and k != first
    )
    if details:
        said["probabilities"] = mean.tolist()
        said["answers"] = [
            {"model": model, "digit": int(digit), "probability": float(own_probabilities[digit])}
            for model, digit, own_probabilities in zip(models, own, probabilities, strict=True)
        ]
    return said


def as_csv(answers: Sequence[dict[str, Any]]) -> str:
    """One line for each input; what is unknown is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(answers[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(answers)
    return text.getvalue()


def as_table(answers: Sequence[dict[str, Any]], models: Sequence[str]) -> Table:
    """The answers for people to read, with a summary below."""
    from rich.markup import escape
    from rich.table import Table

    voting = len(models) > 1
    known = [said["right"] for said in answers if said["right"] is not None]
    notes = []
    if known:
        notes.append(f"{sum(known)} of {len(known)} rows with a class are right")
    if voting:
        split = sum(said["agree"] < said["models"] for said in answers)
        notes.append(f"the models disagree on {split} of {len(answers)}")
    who = f"vote of {', '.join(models)}" if voting else models[0]
    table = Table(title=escape(f"Digits: {who}"), caption="; ".join(notes) or None)
    table.add_column("input", overflow="fold")
    for column in ("digit", "%", "runner-up", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    if voting:
        table.add_column("agree", no_wrap=True)
        table.add_column("others say")
    if known:
        table.add_column("class", no_wrap=True)
    for said in answers:
        cells = [
            escape(said["input"]),
            str(said["digit"]),
            f"{100 * said['probability']:.2f}",
            str(said["runner_up"]),
            f"{100 * said['runner_up_probability']:.2f}",
        ]
        if voting:
            cells += [f"{said['agree']} of {said['models']}", escape(said["others"])]
        if known:
            wrong = "" if said["right"] in (True, None) else " [bold red]wrong[/]"
            cells.append(("" if said["class"] is None else str(said["class"])) + wrong)
        table.add_row(*cells)
    return table


def as_text(table: Table) -> str:
    """The table for a file: no colours, and the width that it needs."""
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


if __name__ == "__main__":
    command_line.run(Config, main, __doc__)
