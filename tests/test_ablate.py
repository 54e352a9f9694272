"""The script ablate.py: its changes lead from one recipe to the other, and it reports each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from digits_jax import OneCycleAdam, recipe_by_name

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import ablate


def test_all_changes_together_lead_from_each_recipe_to_the_other() -> None:
    notebook, strong = (
        ablate.complete(recipe_by_name(name, epochs=2)) for name in ("notebook", "strong")
    )
    forth, back = notebook, strong
    for fields in ablate.CHANGES.values():
        one = ablate.swap(notebook, strong, fields)
        assert one != notebook and ablate.swap(one, notebook, fields) == notebook
        forth, back = ablate.swap(forth, strong, fields), ablate.swap(back, notebook, fields)
    assert forth == strong and back == notebook


def test_variants_of_one_static_part_share_a_program() -> None:
    variants = ablate.variants(epochs=2)
    groups = list(ablate.grouped(variants).values())
    assert sum(map(len, groups)) == len(variants) == 2 + 2 * len(ablate.CHANGES)
    hyperparameters = [
        n for n, fields in ablate.CHANGES.items() if all("hyperparameters" in f for f in fields)
    ]
    assert ["notebook", *(f"notebook + {name}" for name in hyperparameters)] in groups
    assert ["strong", *(ablate.variant_name("strong", name) for name in hyperparameters)] in groups


@pytest.mark.slow
def test_it_reports_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # These ride the runs axis: two programs in all.
    kept = ("label smoothing", "no dropout", "weight decay")
    monkeypatch.setattr(ablate, "CHANGES", {name: ablate.CHANGES[name] for name in kept})
    monkeypatch.setattr(ablate.startup, "start_jax", lambda compilation_cache: None)
    config = ablate.Config(data="bundled", folds=2, epochs=1, output_dir=tmp_path / "out")
    ablate.main(config)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"ablation.png", "report.html", "results.json"}
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
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(row["accuracies"]))
        base = name.split()[0]
        if name != base:
            difference = np.mean(row["accuracies"]) - np.mean(rows[base]["accuracies"])
            assert row["against"]["recipe"] == base
            assert row["against"]["difference"] == pytest.approx(difference)
            low, high = row["against"]["ci95"]
            assert low <= difference <= high
    assert results["epochs"] == 1
    shown = capsys.readouterr().out
    assert "strong - weight decay" in shown and "strong + dropout" in shown


def test_a_users_mistake_is_refused(tmp_path: Path) -> None:
    for mistake, message in {"folds": "--folds must be at least 2", "epochs": "--epochs"}.items():
        with pytest.raises(ablate.options.UsageError, match=message):
            ablate.main(ablate.Config(**{mistake: 0}, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_every_cycle_ends_with_the_training_whatever_the_batch() -> None:
    """The library gives the steps to those optimizers that ask; here: all one-cycle ones do."""
    variants = ablate.variants(epochs=3)
    asks = {name: variant.recipe.takes_steps for name, variant in variants.items()}
    cycles = {name: isinstance(v.recipe.optimizer, OneCycleAdam) for name, v in variants.items()}
    assert asks == cycles and 0 < sum(asks.values()) < len(asks)
    assert {variant.recipe.batch_size for variant in variants.values()} == {64, 128}
