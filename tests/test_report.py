"""The report: what is on the page, that it loads nothing, and that it works in a browser."""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from PIL import Image

from common.drawing import plots
from common.scores import scores_of
from common.tables import Table
from common.tasks import Task
from digits_jax import Dataset, Recipe, load_digits, metrics
from report import SHOWN, Report, misclassified, pages

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
        "config": {
            "folds": FOLDS,
            "repeats": REPEATS,
            "members": 1,
            "data": HOSTILE,
            "output_dir": None,
            "job": {"distributed": False},
        },
        "trained": {"runs": FOLDS * REPEATS, "epochs": EPOCHS},
        "epochs_of_runs": np.array([EPOCHS, EPOCHS - 2] * FOLDS),
        "command": f"python cross_validate.py --data '{HOSTILE}'",
        "devices": {"kind": "cpu", "count": 2},
        "versions": {"jax": "1"},
        "folds": folds,
        "diverged": {},
        "accuracy": _summary([0.97, 0.99]),
        "loss": _summary([0.05, 0.1]),
        "seconds": {"compile": 1.0, "train": 2.0},
    }


class _Result:
    """What a page reads of a cross-validation."""

    def __init__(self, runs: int) -> None:
        loss = np.geomspace(2, 0.01, EPOCHS) * np.linspace(1, 1.5, runs)[:, None]
        self.history = {"loss": loss, "accuracy": 1 - loss / 4}
        self.diverged = np.zeros(runs, np.int32)


@pytest.fixture(scope="module")
def page(digits: Dataset, predictions: tuple[np.ndarray, np.ndarray]) -> str:
    """A report of cross-validation whose runs have hostile names."""
    runs = FOLDS * REPEATS
    result: Any = _Result(runs)
    names = [f"{HOSTILE} {i}" for i in range(runs)]
    results = _results()
    return pages.cross_validation(
        results,
        task=Task(data=digits.data, provenance=digits.provenance, class_names=digits.class_names),
        result=result,
        table=Table("Folds", ("run", "score"), [(name, 1) for name in names]),
        scores=scores_of(Recipe()),
        names=names,
        figures={
            "folds": plots.fold_scores({"Loss (nats)": [0.1, 0.2]}),
            "learning_curves": plots.learning_curves({"<b>Loss": result.history["loss"]}, names),
        },
        pooled=predictions,
    ).html(results)


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
    assert len([tag for tag, _ in parsed.tags if tag == "script"]) == 1
    shown = [text for tag, text in parsed.texts if HOSTILE in text]
    assert len(shown) >= 5  # note, command, options, source, and the names of runs
    assert all(a.get("src", "").startswith("data:") for t, a in parsed.tags if t == "img")


def test_headline_tables_and_figures_are_there(page: str) -> None:
    parsed = _Page(page)
    text = " ".join(text for _, text in parsed.texts)
    for words in ("98.00 ± 1.00 %", "97.00 to 99.00 %", "0.0750 ± 0.0250 nats", "To do it again"):
        assert words in text
    assert f"{FOLDS * REPEATS} runs of {EPOCHS - 2} to {EPOCHS} epochs, trained at once" in text
    values = [a["class"] for _, a in parsed.tags if (a.get("class") or "").startswith("value")]
    assert values == ["value whole"] * 2  # on one line, with the unit
    plots = [a for _, a in parsed.tags if a.get("class") == "plot"]
    assert len(plots) == 2 == len([tag for tag, _ in parsed.tags if tag == "svg"])
    # Of a column, and of a page, which is scrolled where there is no room to read it.
    assert [a["style"] for a in plots] == [
        "--width: 434px; --least: 0px",
        "--width: 868px; --least: 544px",
    ]
    assert all(len(a["aria-label"] or "") > 20 for a in plots)
    assert all(a.get("alt") for t, a in parsed.tags if t == "img")
    assert "distributed" in text and "{'distributed'" not in text
    assert len(page) < 600_000


def test_the_values_of_the_curves_are_a_table_to_unfold(page: str) -> None:
    (values,) = re.findall(r"<details>.*?</details>", page, flags=re.DOTALL)
    lines = re.findall(r"<tr><th scope=\"row\">(\d+)</th>(.*?)</tr>", values)
    assert [int(epoch) for epoch, _ in lines] == list(range(1, EPOCHS + 1))
    cells = re.findall(r"<td>(.*?)</td>", lines[0][1])
    loss = _Result(FOLDS * REPEATS).history["loss"][:, 0]
    # The accuracies of all runs, and then their losses.
    assert cells[len(loss) :] == [f"{value:.4f}" for value in loss]
    assert cells[0] == f"{100 - 25 * loss[0]:.2f}"


def test_curves_of_many_runs_know_of_those_that_stopped() -> None:
    result: Any = _Result(pages.MANY + 1)
    for values in result.history.values():
        values[0, -1] = np.nan  # it has stopped
    names = [str(i) for i in range(pages.MANY + 1)]
    columns, lines = pages._curve_values(result, scores_of(Recipe()), names)
    last = dict(zip(columns, lines[-1], strict=True))
    (lowest,) = (value for name, value in last.items() if name.startswith("lowest: loss"))
    assert lowest == f"{np.nanmin(result.history['loss'][:, -1]):.4f}"


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
        assert [name for name, _ in digit.probabilities] == list("0123456789")
        np.testing.assert_allclose([share for _, share in digit.probabilities], means)
        picture = Image.open(io.BytesIO(base64.b64decode(digit.image.partition(",")[2])))
        ink = np.asarray(picture, float)
        np.testing.assert_allclose(ink, 255 - digits.images[digit.row] * (255 / 16), atol=1)
    always = [digit for digit in found if digit.wrong == REPEATS]
    sure = [dict(digit.probabilities)[digit.true] for digit in always]
    assert len(always) > 1 and sure == sorted(sure)  # the surest mistakes first


def test_a_sheet_knows_who_was_wrong(digits: Dataset) -> None:
    rows = np.array([3, 3, 5, 5])
    answers = np.eye(10)[[digits.labels[3], 0, 1, 1]]
    methods = np.array(["svm", "knn", "svm", "knn"])
    found = misclassified(
        digits.images, digits.labels, rows, answers, digits.class_names, methods=methods
    )
    assert {digit.row: digit.methods for digit in found} == {3: ["knn"], 5: ["svm", "knn"]}


def test_a_confusion_matrix_has_a_button_for_each_cell() -> None:
    report = Report("Cells")
    report.confusion("Confusion", np.array([[9, 0], [25, 75]]), ["a", "<b>"])
    page = report.html({})
    cells = [a for t, a in _Page(page).tags if t == "button" and "data-truth" in a]
    assert [(a["data-truth"], a["data-predicted"]) for a in cells] == [
        ("a", "a"),
        ("a", "<b>"),
        ("<b>", "a"),
        ("<b>", "<b>"),
    ]
    assert cells[2]["title"] == "true <b>, predicted a: 25 of 100, 25.00 %"
    assert re.findall(r"--root: ([\d.]+)", page) == ["1.000", "0.000", "0.500", "0.866"]


def test_a_lead_that_rounds_to_nothing_is_a_tie() -> None:
    assert [pages.points(d) for d in (0.001, -0.00004, 0.00004)] == [
        "+0.10 points",
        "tied",
        "tied",
    ]


def test_a_page_without_figures_is_small() -> None:
    report = Report("No figures")
    report.table("Numbers", ("a", "b"), [("<x>", 1)], note="1 < 2")
    page = report.html({})
    assert len(page) < 20_000 and "&lt;x&gt;" in page and "1 &lt; 2" in page


def test_a_table_has_the_same_cells_on_the_console_and_in_a_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("[bold]a", 1), ("<b>", 2.5), ("c", None)]
    table = Table("Runs [red]", ("run", "score"), rows, "1 < 2", totals=[("mean", 1.75)])
    table.show(2)
    shown = capsys.readouterr().out
    cells = [re.findall(r"[^│\s]+", line) for line in shown.splitlines() if "│" in line]
    assert cells == [["[bold]a", "1"], ["<b>", "2.5"], ["mean", "1.75"]] and "Runs [red]" in shown
    report = Report("Tables")
    report.table(*table)
    parsed = _Page(report.html({}))
    written = [text for tag, text in parsed.texts if tag in ("th", "td") and text.strip()]
    assert written == ["run", "score", "[bold]a", "1", "<b>", "2.5", "c", "None", "mean", "1.75"]


def test_every_script_with_a_folder_of_results_writes_a_report() -> None:
    scripts = Path(__file__).parents[1].glob("experiments/*.py")
    texts = {path.name: path.read_text() for path in scripts}
    with_folder = {
        name
        for name, text in texts.items()
        if "class Config(" in text and re.search(r" Output\(|\.begin\(config", text)
    }
    assert len(with_folder) > 12 and "predict.py" not in with_folder
    finishes = re.compile(r"\.finish\(|searches\.report\(")
    assert {name for name in with_folder if not finishes.search(texts[name])} == set()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver; on Debian: apt install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1100,1400"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def _open(browser: Any, path: Path) -> None:
    """Opens a report: every figure is drawn within the page, and nothing is loaded."""
    _media(browser, "light")
    browser.get(path.as_uri())
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.plot svg')].map(e => e.clientWidth)"
    )
    assert all(300 < width < 1000 for width in sizes), sizes
    _no_overflow(browser)
    loaded = "return performance.getEntriesByType('resource').map(e => e.name)"
    assert [n for n in browser.execute_script(loaded) if not n.startswith(("data:", "blob:"))] == []
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**NARROW, "width": 420})
    _no_overflow(browser)
    cut = (
        "return [...document.querySelectorAll('.plot')].filter(e => e.scrollWidth > e.clientWidth"
        " && e.querySelector('svg').clientWidth < 500).length"
    )
    assert browser.execute_script(cut) == 0  # figures of a column are whole on a telephone
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


NARROW = {"height": 900, "deviceScaleFactor": 1, "mobile": False}


def _no_overflow(browser: Any) -> None:
    page = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.execute_script(page) == 0


def _count(browser: Any, selector: str) -> int:
    """Elements that are visible."""
    return int(
        browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(e => e.checkVisibility()).length",
            selector,
        )
    )


def _choose(browser: Any, name: str, value: str) -> None:
    browser.execute_script(
        "const s = document.querySelector(`select[name=${arguments[0]}]`); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )


def _colours(browser: Any) -> tuple[str, str]:
    """Of the page, and of the text in a figure."""
    colours: list[str] = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.plot svg text')).fill]"
    )
    return colours[0], colours[1]


def _media(browser: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def _light_and_dark(browser: Any) -> None:
    """By the system's setting, and by the button."""
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
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    content = base64.b64decode(pdf)
    assert content.startswith(b"%PDF") and 2 <= content.count(b"/Type /Page\n") <= 12
    assert _colours(browser) == dark


def _complaints(browser: Any) -> list[Any]:
    return [m for m in browser.get_log("browser") if m["level"] in ("SEVERE", "WARNING")]


def test_in_a_browser(browser: Any, page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    _open(browser, tmp_path / "report.html")
    assert browser.title == "3-fold cross-validation, 2 times"  # no markup came alive

    # The filter.
    assert _count(browser, ".digits > li") == SHOWN
    browser.execute_script("document.querySelector('.more').click()")
    everything = _count(browser, ".digits > li")
    assert everything > SHOWN and _count(browser, ".more") == 0
    _choose(browser, "true", "8")
    eights = _count(browser, ".digits > li")
    assert 0 < eights < everything and eights == _count(browser, '.digits > li[data-true="8"]')
    (said,) = browser.execute_script("return [document.querySelector('output').textContent]")
    assert said == f"{eights} of {eights} shown"
    answer = browser.execute_script(
        "return JSON.parse(document.querySelector('.digits > li:not([hidden])')"
        ".dataset.predicted)[0]"
    )
    _choose(browser, "predicted", answer)
    assert 0 < _count(browser, ".digits > li") <= eights
    _choose(browser, "true", "")
    _choose(browser, "predicted", "")
    assert _count(browser, ".digits > li") == everything
    _click_cell(browser, "8", answer)
    assert 0 < _count(browser, ".digits > li") <= eights
    browser.execute_script("document.querySelector('form').reset()")
    _choose(browser, "true", "")
    _light_and_dark(browser)
    assert _complaints(browser) == []


def _click_cell(browser: Any, true: str, predicted: str) -> None:
    browser.execute_script(
        "document.querySelector(`.confusion button[data-truth='${arguments[0]}']"
        "[data-predicted='${arguments[1]}']`).click()",
        true,
        predicted,
    )


def _run(script: str, *arguments: object) -> None:
    """A script in this process, which has started JAX already."""
    command_line = importlib.import_module("common.command_line")
    module = importlib.import_module(script)
    with pytest.MonkeyPatch.context() as patch, joblib.parallel_config("sequential"):
        patch.setattr("common.startup.start_jax", lambda **_: None)
        patch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        command_line.run(module.Config, module.main, module.__doc__)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of compare.py, leftovers.py and sweep.py, which have run as small as they go."""
    folder, bundled = tmp_path_factory.mktemp("made"), ("--data", "bundled")
    small = (*bundled, "--folds", 2, "--output-dir")
    _run("compare", "--methods", "knn1", "knn3", "--repeats", 2, *small, folder / "compare")
    leftovers = (*bundled, "--output-dir", folder / "leftovers")
    _run("leftovers", "--run", folder / "compare", *leftovers)
    tried = ("learning_rate=1e-3,1e-2", "dropout_rate=0,0.5", "network.width=0.125")
    _run("sweep", "--vary", *tried, "--epochs", 2, *small, folder / "sweep")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("script", ["compare", "leftovers", "sweep"])
def test_reports_of_scripts_in_a_browser(browser: Any, made: Path, script: str) -> None:
    results = json.loads((made / script / "results.json").read_text())
    _open(browser, made / script / "report.html")
    headlines = browser.execute_script(
        "return [...document.querySelectorAll('.headline')].map(e => e.innerText)"
    )
    plots = _count(browser, ".plot")
    if script == "sweep":
        found = results["accuracy"]
        assert plots == 2 and results["best_command"] in headlines[1]
        low, high = (100 * end for end in found["ci95"])
        assert f"{100 * found['mean']:.2f} ± {100 * found['std']:.2f} %" in headlines[0]
        assert f"{low:.2f} to {high:.2f} %" in headlines[0]
        # Two splits, their mean and interval; four configurations.
        assert _count(browser, "section.table tbody tr") == 2 + 2 + 4
    else:
        missed = results["left"] if script == "leftovers" else results["missed_by_all"]
        row = {"leftovers": 0, "compare": 2}[script]
        assert plots == {"leftovers": 1, "compare": 2}[script]
        assert f"\n{len(missed)}\n" in headlines[row]
        if _count(browser, ".more"):
            browser.execute_script("document.querySelector('.more').click()")
        everything = _count(browser, ".digits > li")
        notes = browser.execute_script(
            "return [...document.querySelectorAll('.digits > li')].map(e => e.innerText)"
        )
        sheet = [re.search(r"row (\d+), wrong (\d+) of 4 times", note) for note in notes]
        shares = {int(each[1]): int(each[2]) / 4 for each in sheet if each}
        if script == "leftovers":
            assert shares == {each["row"]: each["wrong_share"] for each in missed}
        else:
            assert [row for row, share in shares.items() if share == 1] == missed
        true = browser.execute_script("return document.querySelector('.digits > li').dataset.true")
        _choose(browser, "true", true)
        shown = _count(browser, ".digits > li")
        assert 0 < shown == _count(browser, f'.digits > li[data-true="{true}"]') < everything
        _choose(browser, "true", "")
        _click_cell(browser, true, true)
        assert _count(browser, ".digits > li") == shown
        _choose(browser, "true", "")
        if script == "compare":
            _choose(browser, "method", "3 nearest neighbours")
            assert 0 < _count(browser, ".digits > li") < everything
    _light_and_dark(browser)
    assert _complaints(browser) == []
