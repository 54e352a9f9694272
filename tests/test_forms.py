"""The forms of the second file: their template, and what is made of them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import digits_jax as dj
from digits_jax.forms import form_of_rows, leave_one_form_out

SCRIPT = Path(__file__).parents[1] / "experiments" / "forms.py"


def _alignments(form: str, template: str) -> int:
    """Length of the longest common subsequence: digits of the form in the template's order."""
    table = np.zeros((len(form) + 1, len(template) + 1), int)
    for i, a in enumerate(form):
        for j, b in enumerate(template):
            table[i + 1, j + 1] = max(table[i, j] + (a == b), table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_all_forms_follow_one_template_but_for_a_digit(full_data: Path) -> None:
    labels = dj.load_digits(str(full_data)).labels
    form = form_of_rows(labels)
    assert (form[:3823] == -1).all() and (np.diff(form[3823:]) >= 0).all()
    texts = ["".join(map(str, labels[form == each])) for each in range(14)]
    assert [len(text) for text in texts] == [
        130, 126, 130, 130, 130, 130, 130, 123, 128, 130, 128, 130, 122, 130
    ]  # fmt: skip
    template = texts[0]
    assert len({text for text in texts if len(text) == 130}) == 2  # form 2 ends in a 3, not an 8
    assert 1797 - sum(_alignments(text, template) for text in texts) == 1
    assert labels[4208] == 3 and form[4208] == 2 and texts[2][:-1] == template[:-1]
    assert all(text.startswith("0123456789"[text[0] == "1" :][:5]) for text in texts)


def test_each_form_is_left_out_once(full_data: Path) -> None:
    labels = dj.load_digits(str(full_data)).labels
    form, splits = form_of_rows(labels), leave_one_form_out(labels)
    for each in range(14):
        tested = splits.test_rows[each][splits.test_weights[each] > 0]
        np.testing.assert_array_equal(tested, np.flatnonzero(form == each))
        trained = splits.train_rows[each][splits.train_weights[each] > 0]
        assert len(trained) == 5620 - len(tested) and not np.isin(trained, tested).any()


def test_other_rows_are_refused() -> None:
    labels = dj.load_digits("bundled").labels
    with pytest.raises(ValueError, match="needs all 5620 rows"):
        form_of_rows(labels)


def test_the_script(full_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    forms = importlib.import_module("forms")
    monkeypatch.setattr("common.startup.start_jax", lambda **_: None)
    words = ["--data", str(full_data), "--methods", "knn1", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with joblib.parallel_config("sequential"):
        forms.command_line.run(forms.Config, forms.main, forms.__doc__)
    digits = dj.load_digits(str(full_data))
    pixels = digits.images.reshape(5620, -1)
    model = KNeighborsClassifier(1).fit(pixels[:3823], digits.labels[:3823])
    wrong = model.predict(pixels[3823:]) != digits.labels[3823:]
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["knn1"]["new_writers"]
    assert found["errors"] == wrong.sum() == sum(found["errors_by_form"])
    assert found["wilson95"] == pytest.approx(dj.wilson_interval(1797 - int(wrong.sum()), 1797))
    low, high = found["forms95"]
    assert (100 * low, 100 * high) == pytest.approx((97.23, 98.72), abs=0.03)  # wider than Wilson's
    left_out = json.loads((tmp_path / "results.json").read_text())["methods"]["knn1"]
    form, expected = form_of_rows(digits.labels), []
    for each in range(14):
        tests = form == each
        model = KNeighborsClassifier(1).fit(pixels[~tests], digits.labels[~tests])
        expected.append(int((model.predict(pixels[tests]) != digits.labels[tests]).sum()))
    assert left_out["one_form_left_out"]["errors_by_form"] == expected
