"""The script ablate.py: its changes lead from one recipe to the other, and it reports each."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax import OneCycleAdam

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import ablate
import digits_variants


def test_all_changes_together_lead_from_each_recipe_to_the_other() -> None:
    notebook, strong = (digits_variants.complete(name, 2) for name in ("notebook", "strong"))
    forth, back = notebook, strong
    for fields in digits_variants.CHANGES.values():
        one = digits_variants.swap(notebook, strong, fields)
        assert one != notebook and digits_variants.swap(one, notebook, fields) == notebook
        forth, back = (
            digits_variants.swap(forth, strong, fields),
            digits_variants.swap(back, notebook, fields),
        )
    assert forth._replace(name="strong") == strong
    assert back._replace(name="notebook") == notebook


def test_variants_of_one_static_part_share_a_program() -> None:
    study = digits_variants.digits_study(epochs=2)
    plans = {name: plan for variants in study.values() for name, plan in variants.items()}
    groups = list(ablate.grouped(plans).values())
    assert sum(map(len, groups)) == len(plans) == 2 + 2 * len(digits_variants.CHANGES)
    of_h = [
        n
        for n, f in digits_variants.CHANGES.items()
        if all("hyperparameters" in each for each in f)
    ]
    assert ["notebook", *(f"notebook + {name}" for name in of_h)] in groups
    assert [
        "strong",
        "strong + dropout",
        "strong - label smoothing",
        "strong - weight decay",
        "strong - averaged weights",
    ] in groups


@pytest.mark.slow
def test_it_reports_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # These ride the runs axis: two programs in all.
    kept = ("label smoothing", "no dropout", "weight decay")
    monkeypatch.setattr(
        digits_variants, "CHANGES", {name: digits_variants.CHANGES[name] for name in kept}
    )
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    config = ablate.Config(data="bundled", folds=2, epochs=1, output_dir=tmp_path / "out")
    ablate.main(config)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    written = {path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."}
    assert written == {
        "ablation.png",
        "checkpoints",
        "options.json",
        "report.html",
        "results.json",
    }
    again = dataclasses.replace(config, resume=True)  # all of it is in the checkpoints
    trained = (tmp_path / "out" / "checkpoints").stat().st_mtime_ns
    ablate.main(again)
    assert (
        json.loads((tmp_path / "out" / "results.json").read_text())["recipes"]
        == (results["recipes"])
    )
    assert (tmp_path / "out" / "checkpoints").stat().st_mtime_ns == trained
    rows = {row["recipe"]: row for row in results["recipes"]}
    assert list(rows) == [
        "notebook",
        "notebook + label smoothing",
        "notebook + no dropout",
        "notebook + weight decay",
        "strong",
        "strong - label smoothing",
        "strong + dropout",
        "strong - weight decay",
    ]
    for name, row in rows.items():
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(row["scores"]))
        base = name.split()[0]
        if name != base:
            difference = np.mean(row["scores"]) - np.mean(rows[base]["scores"])
            assert row["against"]["recipe"] == base
            assert row["against"]["difference"] == pytest.approx(difference)
            low, high = row["against"]["ci95"]
            if np.ptp(np.subtract(row["scores"], rows[base]["scores"])):
                assert low <= difference <= high
            else:  # equal differences have no interval
                assert low is None and high is None
    assert set(results["epochs"].values()) == {1}
    shown = capsys.readouterr().out
    assert "strong - weight decay" in shown and "strong + dropout" in shown


def test_a_users_mistake_is_refused(tmp_path: Path) -> None:
    for mistake, message in {"folds": "--folds must be at least 2", "epochs": "--epochs"}.items():
        with pytest.raises(ablate.options.UsageError, match=message):
            ablate.main(ablate.Config(**{mistake: 0}, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


OWN = """
import dataclasses
import digits_jax as dj
import flax.linen as nn
import optax

class Net(nn.Module):
    width: int = 4
    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(1)(nn.relu(nn.Dense(self.width)(x)))[:, 0]

def mae(outputs, targets):
    return abs(outputs - targets)

def variants(data):
    base = dj.Recipe(network=Net(), loss=lambda o, t, h: dj.squared_error(o, t),
                     metrics={"mae": mae}, optimizer=lambda h: optax.adam(h["rate"]), batch_size=16)
    wide = dataclasses.replace(base, network=Net(8))
    return {"base": (base, {"rate": 0.01}, 2), "faster": (base, {"rate": 0.1}, 2),
            "wider": (wide, {"rate": 0.01}, 3)}

def one(data):
    return variants(data)["base"]
"""


@pytest.mark.slow
def test_variants_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 3)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", inputs=inputs, targets=inputs.sum(axis=1))
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    given = {"data": str(tmp_path / "rows.npz"), "folds": 2, "output_dir": tmp_path / "out"}
    with pytest.raises(ablate.options.UsageError, match="must give a dict of two or more names"):
        ablate.main(ablate.Config(recipe=f"{tmp_path / 'mine.py'}:one", **given))
    with pytest.raises(ablate.options.UsageError, match="notebook and strong are of the digits"):
        ablate.main(ablate.Config(**given))
    ablate.main(ablate.Config(recipe=f"{tmp_path / 'mine.py'}:variants", **given))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["epochs"] == {"base": 2, "faster": 2, "wider": 3} and results["score"] == "mae"
    rows = {row["recipe"]: row for row in results["recipes"]}
    assert rows["faster"]["mae"]["mean"] < rows["base"]["mae"]["mean"], "it learned more"
    assert rows["faster"]["against"]["recipe"] == "base" and "against" not in rows["base"]


def test_every_cycle_ends_with_the_training_whatever_the_batch() -> None:
    """The library gives the steps to those optimizers that ask; here: all one-cycle ones do."""
    study = digits_variants.digits_study(epochs=3)
    variants = {name: plan for each in study.values() for name, plan in each.items()}
    asks = {name: variant.recipe.takes_steps for name, variant in variants.items()}
    cycles = {name: isinstance(v.recipe.optimizer, OneCycleAdam) for name, v in variants.items()}
    assert asks == cycles and 0 < sum(asks.values()) < len(asks)
    assert {variant.recipe.batch_size for variant in variants.values()} == {64, 128}
