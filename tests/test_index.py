"""The page of all runs: what it lists, and that it sorts and marks in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report import _complaints, _media, _no_overflow, browser  # noqa: F401

import index
from common.options import UsageError

MEANS = {"20260101-000000": 0.98, "20260102-000000": 0.995, "20260103-000000": 0.9}


def _write(folder: Path, script: str, mean: float | None, date: str = "", **config: Any) -> None:
    folder.mkdir(parents=True)
    summary = {"mean": mean, "std": 0.01, "ci95": [0.9, 1.0]}
    results = {
        "experiment": script,
        **({"date": date} if date else {}),
        "data": {"source": "bundled", "rows": 1797, "sha256": "a" * 64},
        "config": {"recipe": "strong", "epochs": 3, "members": 1, "seed": 0, **config},
        **({"accuracy": summary} if mean is not None else {}),
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "report.html").write_text("<title>x</title>")
    pixels = np.full((200, 400, 3), 255, np.uint8)
    pixels[50:150, 100:300] = (0, 114, 178)
    Image.fromarray(pixels).save(folder / "folds.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three scripts, one of them damaged, with the link that scripts keep."""
    runs = tmp_path_factory.mktemp("home") / "my runs"
    for name, mean in MEANS.items():
        date = f"{name[:4]}-{name[4:6]}-{name[6:8]}T10:30:00Z"
        place = runs / "cross_validate" / name
        _write(place, "cross_validate", mean, date, set=["width=0.5"], members=3)
    _write(runs / "train" / "<b>", "train", 0.97, recipe="<i>mine.py:r")
    _write(runs / "explore" / "x", "explore", None)
    (runs / "latest").symlink_to(runs / "explore" / "x")
    (runs / "train" / "damaged").mkdir()
    (runs / "train" / "damaged" / "results.json").write_text('{"experiment": ')
    return runs


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    index.main(index.Config(folder=folder))
    return folder / "index.html"


def test_it_lists_each_run_once_by_data_and_script(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.main(index.Config(folder=folder))
    said = capsys.readouterr()
    assert said.out.splitlines() == ["5 runs in 3 tables", str(folder / "index.html")]
    assert "results.json can't be read (JSONDecodeError" in said.err and said.err.count("\n") == 1
    text = (folder / "index.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    scripts = ("cross_validate", "explore", "train")
    assert titles == [f"bundled, 1797 rows: {script}" for script in scripts]
    results = re.findall(r'<td data-value="[\d.]*">(.*?)</td>', text)
    assert results == [f"accuracy {100 * m:.2f} ± 1.00 %" for m in (0.9, 0.995, 0.98)] + [
        "",
        "accuracy 97.00 ± 1.00 %",
    ]  # the newest first
    assert "epochs 3, members 3, seed 0, width=0.5" in text
    assert text.count('type="checkbox"') == 4  # what explore.py finds is no score
    assert 'href="cross_validate/20260101-000000/report.html"' in text
    assert 'href="train/%3Cb%3E/results.json"' in text
    assert "&lt;i&gt;mine.py:r" in text and "<i>" not in text and "latest" not in text
    assert text.count("data:image/png;base64,") == 5
    assert all(len(each) < 8000 for each in re.findall(r'src="(data:.*?)"', text))


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no results.json of a finished run"):
        index.main(index.Config(folder=tmp_path))
    with pytest.raises(UsageError, match="none is not a folder"):
        index.main(index.Config(folder=tmp_path / "none"))


def test_methods_are_listed_by_the_best() -> None:
    methods = {
        "svm": {"title": "SVM", "accuracy": {"mean": 0.99, "std": 0.001}},
        "knn1": {"title": "1 nearest neighbour", "accuracy": {"mean": 0.98, "std": 0.001}},
    }
    assert index.headline({"methods": methods}) == (99.0, "SVM: accuracy 99.00 ± 0.10 %")
    assert index.headline({"loss": {"mean": 0.5, "std": 0.0}}) == (
        0.5,
        "loss 0.5000 ± 0.0000 nats",
    )
    assert index.headline({}) == (None, "")


def test_it_sorts_and_marks_in_a_browser(browser: Any, page: Path) -> None:  # noqa: F811
    browser.get(page.as_uri())
    first = "return [...document.querySelectorAll('.runs')[0].querySelectorAll('tbody th')]"
    names = f"{first}.map(e => e.innerText.split('\\n')[0].split('/')[1])"
    by_date = sorted(MEANS, reverse=True)
    assert browser.execute_script(names) == by_date

    def click(column: str) -> None:
        for button in browser.find_elements("css selector", ".runs th button"):
            if button.text.startswith(column):
                return button.click()

    click("result")
    assert browser.execute_script(names) == sorted(MEANS, key=lambda name: MEANS[name])
    click("result")
    assert browser.execute_script(names) == sorted(MEANS, key=lambda name: -MEANS[name])
    click("date")
    assert browser.execute_script(names) == by_date[::-1]

    shown = "const e = document.querySelector('#marked'); return e.checkVisibility() && e.innerText"
    assert browser.execute_script(shown) is False
    boxes = browser.find_elements("css selector", ".runs input")
    boxes[0].click()
    assert browser.execute_script(shown).strip() == "Mark another run to compare it with."
    boxes[3].click()
    command = browser.execute_script("return document.querySelector('#marked code').textContent")
    of_first = f"'{page.parent / 'cross_validate' / by_date[-1]}'"
    of_other = f"'{page.parent / 'train' / '<b>'}'"
    assert command == f"python experiments/compare_runs.py {of_first} {of_other}"

    colours = set()
    for scheme in ("light", "dark"):
        _media(browser, scheme)
        body = "return getComputedStyle(document.body).backgroundColor"
        colours.add(browser.execute_script(body))
        for width in (1280, 420):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            _no_overflow(browser)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(colours) == 2 and _complaints(browser) == []
