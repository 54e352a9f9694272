"""What predict.py answers: as a table, CSV, or a sheet to look at. No script of its own."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import digits_jax as dj
from digits_jax.familiarity import FAMILIAR, distances


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """What is to be read: a row of a table, or an image."""

    name: str  # "row 59", or the path as given
    row: int | None = None  # its number; None for an image
    counts: npt.NDArray[np.uint8] | None = None  # [8, 8]; None where it could not be read
    label: int | None = None  # its class, None where it is unknown
    crop: npt.NDArray[np.uint8] | None = None  # [h, w], grey: the part of an image that was read
    refused: str = ""  # why it could not be read


def answer_of(
    given: Input,
    probabilities: npt.NDArray[np.float64],
    models: Sequence[str],
    *,
    details: bool,
) -> dict[str, Any]:
    """What the models say of one input.

    Args:
        given: the input.
        probabilities: [R, K], the models' probabilities of it.
        models: R names.
        details: also give the mean probability of each class, and each model's own answer.
    """
    mean = probabilities.mean(axis=0)
    first, second = (int(k) for k in np.argsort(-mean, kind="stable")[:2])
    own = probabilities.argmax(axis=1)
    assert given.counts is not None
    distance = float(distances(given.counts[None], [first])[0])
    said: dict[str, Any] = {
        "input": given.name,
        "row": given.row,
        "digit": first,
        "probability": float(mean[first]),
        "runner_up": second,
        "runner_up_probability": float(mean[second]),
        "models": len(models),
        "agree": int((own == first).sum()),
        "probability_sd": float(probabilities[:, first].std(ddof=1)) if len(models) > 1 else None,
        "probability_min": float(probabilities[:, first].min()),
        "class": given.label,
        "right": None if given.label is None else first == given.label,
        "distance": distance,
        "familiar": distance <= FAMILIAR,
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
    voting = len(models) > 1
    known = [said["right"] for said in answers if said["right"] is not None]
    notes = []
    if known:
        notes.append(f"{sum(known)} of {len(known)} rows with a class are right")
    if strange := sum(not said["familiar"] for said in answers):
        notes.append(f"{strange} of {len(answers)} are unlike the known digits")
    if voting:
        split = sum(said["agree"] < said["models"] for said in answers)
        notes.append(f"the models disagree on {split} of {len(answers)}")
    who = f"vote of {', '.join(models)}" if voting else models[0]
    caption = escape("; ".join(notes)) or None
    table = Table(title=escape(f"Digits: {who}"), caption=caption, padding=0)  # 80 columns do
    names = _short_names([said["input"] for said in answers if said["row"] is None])
    inputs = [names.get(said["input"], said["input"]) for said in answers]
    widest = max(map(len, inputs))
    table.add_column("input", overflow="fold", min_width=min(widest, 12))
    for column in ("digit", "%", "runner-up", "%"):
        table.add_column(column, justify="right", no_wrap=True)
    if voting:
        table.add_column("agree", no_wrap=True)
        table.add_column("others say")
    if known:
        table.add_column("class", no_wrap=True)
    table.add_column("distance", justify="right", no_wrap=True)
    for name, said in zip(inputs, answers, strict=True):
        cells = [
            escape(name),
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
        far = "" if said["familiar"] else " [bold yellow]unlike[/]"
        cells.append(f"{said['distance']:.1f}{far}")
        table.add_row(*cells)
    return table


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Files without their folders, by their paths; with them where two have one name."""
    counts = Counter(Path(path).name for path in dict.fromkeys(paths))
    return {path: name for path in paths if counts[name := Path(path).name] == 1}


def as_text(table: Table) -> str:
    """The table for a file: no colours, and the width that it needs."""
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def sheet(inputs: Sequence[Input], answers: Mapping[str, dict[str, Any]], path: Path) -> None:
    """Draws what the networks saw: the part that was read, its 8x8 counts, and the answer.

    Args:
        inputs: all of them, in order.
        answers: by the input's name; not of those that were refused.
        path: the file, by whose ending its format is chosen.
    """
    from PIL import Image

    tiles, titles, framed = [], [], []
    for given in inputs:
        counts = np.zeros((8, 8), np.uint8) if given.counts is None else given.counts
        crop = _shown(given)
        tile = Image.new("L", (64, 64), int(np.median(crop)))
        small = Image.fromarray(crop)
        scale = 64 / max(small.size)
        how = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC
        width, height = (max(1, round(side * scale)) for side in small.size)
        small = small.resize((width, height), how)
        tile.paste(small, ((64 - small.width) // 2, (64 - small.height) // 2))
        tiles += [(255 - np.asarray(tile)) / 255, np.kron(counts, np.ones((8, 8))) / 16]
        said = answers.get(given.name)
        name = given.name if given.row is not None else Path(given.name).name
        short = name if len(name) < 18 else f"…{name[-16:]}"
        if said is None:
            framed += [len(tiles) - 2, len(tiles) - 1]
            titles += [short, "not answered"]
        else:
            titles += [short, f"{said['digit']} at {100 * said['probability']:.0f} %"]
    figure = dj.plots.digit_sheet(
        np.stack(tiles), titles, columns=8, framed=framed, black=1, title="What was seen"
    )
    dj.plots.save(figure, path.with_suffix(""), [path.suffix[1:].lower()])


def _shown(given: Input) -> npt.NDArray[np.uint8]:
    """The part of an image that was read, the whole image that wasn't, or a row's counts."""
    from digits_jax.pictures import PreprocessingError, read_picture

    if given.crop is not None:
        return given.crop
    if given.counts is not None:
        return (255 - np.round(given.counts * (255 / 16))).astype(np.uint8)
    try:
        whole = read_picture(given.name)
    except PreprocessingError:
        return np.full((8, 8), 255, np.uint8)
    return np.round(whole.values * (255 / whole.white)).astype(np.uint8)
