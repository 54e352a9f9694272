"""The report: what is on the page, that it loads nothing, and that it works in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest
from PIL import Image

from digits_jax import Dataset, load_digits, metrics
from digits_jax.train import History
from report import Report, figures, misclassified, overviews, pages

HOSTILE = "</script><script>document.title = 'broken'</script><img src=http://example.com/x.png>"
FOLDS, EPOCHS, REPEATS = 3, 5, 2


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_digits("bundled")


@pytest.fixture(scope="module")
def predictions(digits: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows [M] and probabilities [M, K] of two repeats; a few percent are wrong."""
    rows = np.repeat(np.arange(len(digits.labels)), REPEATS)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(rows), 10)) + 3.7 * np.eye(10)[digits.labels[rows]]
    return rows, metrics.probabilities(logits)


def _summary(values: list[float]) -> dict[str, Any]:
    mean, sd = float(np.mean(values)), float(np.std(values))
    return {"mean": mean, "std": sd, "ci95": (mean - sd, mean + sd)}


def _results() -> dict[str, Any]:
    """As cross_validate.py makes them, with markup wherever a user's text can get to."""
    folds = [
        {"fold": i % FOLDS + 1, "repeat": i // FOLDS + 1, "loss": 0.05 + i / 100, "accuracy": 0.98}
        for i in range(FOLDS * REPEATS)
    ]
    return {
        "experiment": "cross_validate",
        "data": {"source": HOSTILE, "rows": 1797, "sha256": "a" * 64, "note": HOSTILE},
        "config": {"folds": FOLDS, "repeats": REPEATS, "data": HOSTILE, "output_dir": None},
        "command": f"python cross_validate.py --data '{HOSTILE}'",
        "devices": {"kind": "cpu", "count": 2},
        "versions": {"jax": "1"},
        "folds": folds,
        "accuracy": _summary([0.97, 0.99]),
        "loss": _summary([0.05, 0.1]),
        "seconds": {"compile": 1.0, "train": 2.0},
    }


@pytest.fixture(scope="module")
def page(digits: Dataset, predictions: tuple[np.ndarray, np.ndarray]) -> str:
    """A report of cross-validation whose runs have hostile names."""
    runs = FOLDS * REPEATS
    loss = np.geomspace(2, 0.01, EPOCHS) * np.linspace(1, 1.5, runs)[:, None]
    rows, shares = predictions
    return pages.cross_validation(
        _results(),
        dataset=digits,
        history=History(loss, 1 - loss / 4),
        names=[f"{HOSTILE} {i}" for i in range(runs)],
        rows=rows,
        shares=shares,
    )


class _Page(HTMLParser):
    """The tags, and the text by the tag that holds it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self.tags[-1][0] if self.tags else "", data))


def test_it_loads_nothing_and_forbids_to(page: str) -> None:
    tags = _Page(page).tags
    loaded = [v for _, a in tags for k, v in a.items() if k in ("src", "href", "srcset", "data")]
    assert loaded and all(value is not None and value.startswith("data:") for value in loaded)
    assert not {tag for tag, _ in tags} & {"link", "iframe", "object", "embed", "base"}
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    (policy,) = [a["content"] for t, a in tags if t == "meta" and "http-equiv" in a]
    assert policy is not None
    assert "default-src 'none'" in policy and "http" not in policy


def test_a_users_text_stays_text(page: str) -> None:
    parsed = _Page(page)
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 3  # data, Plotly, ours
    shown = [text for tag, text in parsed.texts if HOSTILE in text]
    assert len(shown) >= 5  # note, command, options, source, and the names of runs
    assert all(a.get("src", "").startswith("data:") for t, a in parsed.tags if t == "img")


def _figures(page: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_headline_tables_and_figures_are_there(page: str) -> None:
    parsed = _Page(page)
    text = " ".join(text for _, text in parsed.texts)
    for words in ("98.00 ± 1.00 %", "97.00 to 99.00 %", "0.0750 ± 0.0250 nats", "To do it again"):
        assert words in text
    plots = [a for _, a in parsed.tags if a.get("class") == "plot"]
    assert [a["data-figure"] for a in plots] == ["0", "1", "2"]
    assert all(len(a["aria-label"] or "") > 20 for a in plots)
    assert len(_figures(page)) == 3
    assert all(a.get("alt") for t, a in parsed.tags if t == "img")


def test_the_sheet_is_every_row_that_was_wrong(
    digits: Dataset, predictions: tuple[np.ndarray, np.ndarray]
) -> None:
    rows, shares = predictions
    found = misclassified(digits.images, digits.labels, rows, shares, digits.class_names)
    answers = shares.reshape(-1, REPEATS, 10).argmax(2)
    wrong = (answers != digits.labels[:, None]).sum(1)
    assert {digit.row: digit.wrong for digit in found} == {
        row: wrong[row] for row in np.flatnonzero(wrong).tolist()
    }
    assert [digit.wrong for digit in found] == sorted((d.wrong for d in found), reverse=True)
    for digit in found[:20]:
        assert {int(answer) for answer in digit.answers} == set(answers[digit.row].tolist()) - {
            int(digit.true)
        }
        means = shares.reshape(-1, REPEATS, 10)[digit.row].mean(0)
        assert [name for name, _ in digit.shares] == list("0123456789")
        np.testing.assert_allclose([share for _, share in digit.shares], means)
        picture = Image.open(io.BytesIO(base64.b64decode(digit.image.partition(",")[2])))
        ink = np.asarray(picture, float)
        np.testing.assert_allclose(ink, 255 - digits.images[digit.row] * (255 / 16), atol=1)
    always = [digit for digit in found if digit.wrong == REPEATS]
    sure = [dict(digit.shares)[digit.true] for digit in always]
    assert len(always) > 1 and sure == sorted(sure)  # the surest mistakes first


def _all_figures(digits: Dataset) -> dict[str, dict[str, Any]]:
    rng = np.random.default_rng(0)
    labels = digits.labels[:300]
    shares = metrics.probabilities(rng.normal(size=(300, 10)) + 3 * np.eye(10)[labels])
    names = digits.class_names
    few, many = (rng.uniform(0.01, 2, size=(runs, 4)) for runs in (2, 50))
    few[0, 2] = np.nan  # a run that diverged
    return {
        "few": figures.learning_curves(few, few, ["a", "b"]),
        "many": figures.learning_curves(many, many, [str(i) for i in range(50)]),
        "ragged": figures.learning_curves([[1, 0.5], [1]], [[0.1, 0.2], [0.3]], ["a", "<b>"]),
        "scores": figures.scores({"A": [1.0, 2.0], "B": [1.0, np.nan]}, ["a", "b"], "Run"),
        "confusion": figures.confusion(metrics.confusion(labels, shares.argmax(1)), names),
        "roc": figures.roc(metrics.roc_curves(labels, shares), names),
        "reliability": figures.reliability(metrics.reliability(labels, shares)),
        "embedding": figures.embedding(rng.normal(size=(300, 2)), labels, "t-SNE"),
        "bars": figures.bars({"x": [2, 1, 3], "digits_jax": [1, 1, 1]}, "s", mark=("floor", 0.5)),
    }


def test_figures_are_what_plotly_knows(digits: Dataset) -> None:
    for name, figure in _all_figures(digits).items():
        json.dumps(figure, allow_nan=False)
        plotly.graph_objects.Figure(figure)  # raises ValueError for what it doesn't know
        assert figure["data"], name


def test_figures_show_their_numbers(digits: Dataset) -> None:
    found = _all_figures(digits)
    few, many = found["few"]["data"], found["many"]["data"]
    assert [trace["name"] for trace in few] == ["a", "b"] * 2
    assert few[0]["y"][2] is None and few[0]["x"] == [1, 2, 3, 4]
    lowest, highest, mean = many[:3]
    assert highest["fill"] == "tonexty" and mean["name"] == "mean of 50"
    assert all(a < b < c for a, b, c in zip(lowest["y"], mean["y"], highest["y"], strict=True))
    assert found["ragged"]["data"][3]["name"] == "&lt;b&gt;"
    assert found["scores"]["data"][1]["y"] == [1.0, None]
    cells = found["confusion"]["data"][0]
    assert sum(int(text or 0) for row in cells["text"] for text in row) == 300
    assert cells["customdata"][3][5][:2] == ["3", "5"]  # true, predicted
    assert [len(found[name]["data"]) for name in ("roc", "embedding")] == [11, 10]


def test_reports_of_speed_and_of_layers(tmp_path: Path) -> None:
    """Those whose results are quickly made up; the others are tested with their scripts."""
    accuracy = {"mean": 0.991, "std": 0.001, "ci95": (0.9901, 0.9919)}
    seconds = {"each": [9.0, 0.8, 0.9], "with_compilation": 9.0, "median_without_compilation": 0.85}
    results = {"config": {"repeats": 3, "epochs": 4, "seed": 7}, "seconds": seconds}
    results |= {"accuracies": [0.99, 0.991, 0.992], "accuracy": accuracy, "reached": True}
    page = overviews.speedrun(results, target=0.9895)
    assert "99.100 %" in page and "the goal is reached" in page and "9, 0.8, 0.9" in page
    trace = _figures(page)[0]["data"][1]
    assert trace["x"] == ["7", "8", "9"] and trace["y"] == [None, 0.8, 0.9]


def test_a_page_without_figures_is_small() -> None:
    report = Report("No figures")
    report.table("Numbers", ("a", "b"), [("<x>", 1)], note="1 < 2")
    page = report.html({})
    assert len(page) < 20_000 and "&lt;x&gt;" in page and "1 &lt; 2" in page


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, without a window, with the report open."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver; on Debian: apt install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1100,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.get(path.as_uri())
        yield driver
    finally:
        driver.quit()


def _colours(browser: Any) -> tuple[str, str]:
    """Of the page, and of the text in a figure."""
    colours: list[str] = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.plot .xtitle')).fill]"
    )
    return colours[0], colours[1]


def _media(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def test_in_a_browser(browser: Any) -> None:
    def count(selector: str) -> int:
        return int(
            browser.execute_script(
                "return [...document.querySelectorAll(arguments[0])]"
                ".filter(e => e.checkVisibility()).length",
                selector,
            )
        )

    # It opens: every figure is drawn, nothing is loaded, nothing complains, no markup came alive.
    assert count(".plot .main-svg .xtitle, .plot .main-svg .x2title") >= 3
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [n for n in browser.execute_script(loaded) if not n.startswith(("data:", "blob:"))] == []
    assert browser.title == "3-fold cross-validation, 2 times"
    buttons = browser.execute_script(
        "return [...document.querySelectorAll('.modebar-btn')].map(e => e.dataset.title)"
    )
    assert "Zoom" in buttons and not any("hare" in each or "loud" in each for each in buttons)

    # The filter.
    everything = count(".digits > li")
    assert everything > 10
    choose = (
        "const s = document.querySelector(`select[name=${arguments[0]}]`); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.execute_script(choose, "true", "8")
    eights = count(".digits > li")
    assert 0 < eights < everything and eights == count('.digits > li[data-true="8"]')
    (said,) = browser.execute_script("return [document.querySelector('output').textContent]")
    assert said == f"{eights} of {everything} shown"
    answer = browser.execute_script(
        "return JSON.parse(document.querySelector('.digits > li:not([hidden])')"
        ".dataset.predicted)[0]"
    )
    browser.execute_script(choose, "predicted", answer)
    assert 0 < count(".digits > li") <= eights
    browser.execute_script(choose, "true", "")
    browser.execute_script(choose, "predicted", "")
    assert count(".digits > li") == everything
    browser.execute_script(
        "document.querySelectorAll('.plot')[2].emit('plotly_click',"
        " {points: [{customdata: ['8', arguments[0]]}]})",
        answer,
    )
    assert 0 < count(".digits > li") <= eights
    browser.execute_script("document.querySelector('form').reset()")
    browser.execute_script(choose, "true", "")

    # Light and dark: by the system's setting, and by the button.
    _media(browser, "light")
    light = _colours(browser)
    _media(browser, "dark")
    end = time.monotonic() + 20  # the figures are drawn anew, a moment later
    while len({*light, *(dark := _colours(browser))}) < 4 and time.monotonic() < end:
        time.sleep(0.1)
    assert light[0] == "rgb(255, 255, 255)" and len({*light, *dark}) == 4
    browser.execute_script("document.getElementById('theme').click()")
    assert _colours(browser) == light
    browser.execute_script("document.getElementById('theme').click()")
    assert _colours(browser) == dark

    # On paper: light, no wider than the page; and afterwards as before.
    browser.execute_script(
        "addEventListener('afterprint', () => 0);"
        "addEventListener('beforeprint', () => { window.printed ="
        " [getComputedStyle(document.querySelector('.plot .xtitle')).fill,"
        "  document.querySelector('.plot .main-svg').clientWidth] })"
    )
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    content = base64.b64decode(pdf)
    assert content.startswith(b"%PDF") and 3 <= content.count(b"/Type /Page\n") <= 12
    assert browser.execute_script("return window.printed") == [light[1], 680]
    assert _colours(browser) == dark
    assert [m for m in browser.get_log("browser") if m["level"] in ("SEVERE", "WARNING")] == []
