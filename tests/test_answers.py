"""What predict.py prints, and the runs that it can't read."""

from __future__ import annotations

import io
import json
from pathlib import Path

import flax.linen as nn
import numpy as np
import pytest
from rich.console import Console

import answers
import digits_jax as dj
import predict
from common.options import UsageError


def _table(*names: str) -> str:
    counts = dj.load_digits("bundled").images[0]
    probabilities = np.eye(10)[[0, 0]]
    said = [
        answers.answer_of(
            answers.Input(name=name, counts=counts), probabilities, ["a", "b"], details=False
        )
        for name in names
    ]
    text = io.StringIO()
    Console(file=text, width=80).print(answers.as_table(said, ["a", "b"]))
    return text.getvalue()


def test_the_table_names_files_without_their_folders() -> None:
    folder = "/a/folder/with/a/long/name"
    table = _table(f"{folder}/one.png", f"{folder}/two.png")
    assert "one.png" in table and "two.png" in table and "folder" not in table
    table = _table("a/one.png", "b/one.png", "c/two.png")  # two of one name
    assert "a/one.png" in table and "b/one.png" in table and "c/" not in table


def test_a_run_of_ones_own_recipe_is_read_from_python(tmp_path: Path) -> None:
    inputs, labels = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    recipe, runs = dj.Recipe(network=nn.Dense(2)), dj.make_runs(dj.kfold_splits(labels, 2))
    folder = tmp_path / "checkpoints"
    dj.cross_validate((inputs, labels), runs, recipe=recipe, epochs=1, checkpoints=folder)
    remedy = "; read it from Python: dj.load_states\\(.*, recipe=...\\), see docs/tutorials/"
    with pytest.raises(UsageError, match=f"was trained by a recipe of yours{remedy}"):
        predict.load(folder)
    (tmp_path / "options.json").write_text(json.dumps({"options": {"recipe": "mine.py:cnn"}}))
    with pytest.raises(UsageError, match=f"was trained by mine.py:cnn{remedy}"):
        predict.load(folder)
