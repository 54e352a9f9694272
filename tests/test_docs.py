"""The commands of README and docs/ exist and take the options that they are given.

What a script does is its own test's business. Here its command line is parsed, and it is stopped
before it does anything. ``test_docs_programs.py`` runs the Python.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import re
import runpy
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def _blocks(markdown: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)


def _commands(markdown: str) -> Iterator[list[str]]:
    """The words of each command that names a script, in shell blocks and in code spans.

    A span of nothing but options belongs to the script before it in its line.
    """
    for block in _blocks(markdown, "sh"):
        for line in block.replace("\\\n", " ").replace("$i", "0").splitlines():
            yield from _split(line)
    for line in re.sub(r"^```.*?^```$", "", markdown, flags=re.M | re.S).splitlines():
        script: list[str] = []
        for span in re.findall(r"`([^`]+)`", line):
            if span.startswith("--") and script:
                yield [*script, *shlex.split(span)]
            for words in _split(span):
                script = [word for word in words if word.endswith(".py")][:1]
                yield words


def _split(line: str) -> Iterator[list[str]]:
    """The commands of a shell line; those quoted in a word of another too, as ssh has them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    try:
        words = [*lexer, ";"]
    except ValueError:  # a code span with an apostrophe: no command
        return
    command: list[str] = []
    for word in words:
        if " " in word and ".py" in word:
            yield from _split(word)
        if set(word) <= set("&|;<>"):
            if any(each.endswith(".py") for each in command):
                yield command
            command = []
        else:
            command.append(word)


class _Parsed(Exception):
    """The command line is good."""


def _files(folder: str, name: str) -> list[Path]:
    """The files of that name in a folder, or below it."""
    return sorted((ROOT / folder).rglob(name))


def _problem(command: list[str], monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What is wrong with a command, if anything is."""
    at = next(i for i, word in enumerate(command) if word.endswith(".py"))
    name, options = command[at], command[at + 1 :]
    places = [ROOT / name]
    places += [path for top in ("experiments", "digits_jax", "tests") for path in _files(top, name)]
    found = [path for path in places if path.is_file()]
    if not found:
        return f"{name}: no such file"
    if "experiments" not in found[0].parts or not (options or at):
        return None  # a file that is mentioned, not run

    def parse_only(config: Any, *args: Any, cli: Any = tyro.cli, **kwargs: Any) -> Any:
        if not isinstance(config, type):  # a function, which tyro would call
            config = functools.wraps(config)(lambda *args, **kwargs: None)
        cli(config, *args, **kwargs)
        raise _Parsed

    out, said = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(said)
    with monkeypatch.context() as patch, redirected[0], redirected[1]:
        patch.setattr(tyro, "cli", parse_only)
        patch.setattr("digits_jax.use_all_cpu_cores", lambda: None)  # JAX may have started here
        patch.setattr(sys, "argv", [str(found[0]), *options])
        patch.syspath_prepend(found[0].parent)
        try:
            runpy.run_path(str(found[0]), run_name="__main__")
        except _Parsed:
            return None
        except SystemExit as error:
            if error.code == 0:  # --help
                return None
            return f"{shlex.join(command)}: exit code {error.code}\n{said.getvalue()}"
    return f"{shlex.join(command)}: it never parses its command line"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_is_one_that_its_script_takes(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text(encoding="utf-8")
    own = re.findall(r"^# (\w+\.py)$", text, re.MULTILINE)  # files that its reader writes
    commands = [command for command in _commands(text) if command[-1] not in own]
    problems = [_problem(command, monkeypatch) for command in commands]
    assert [problem for problem in problems if problem] == []


def test_commands_are_found() -> None:
    commands = [c for page in PAGES for c in _commands(page.read_text(encoding="utf-8"))]
    run = {word for command in commands for word in command if word.startswith("experiments/")}
    scripts = {
        f"experiments/{path.name}"
        for path in (ROOT / "experiments").glob("*.py")
        if "\nclass Config" in path.read_text(encoding="utf-8")
    }
    assert len(scripts) > 15 and scripts <= run


@pytest.mark.parametrize(
    ("markdown", "problem"),
    [
        ("```sh\ncd x && python experiments/train.py --seeds ten\n```", "--seeds ten"),
        ("```sh\npython experiments/train.py \\\n  --no-such\n```", "--no-such"),
        ("```sh\nssh host --command='python experiments/trian.py; true'\n```", "no such file"),
        ("| train | `python experiments/train.py`, or `--sedes 3` |", "--sedes 3"),
        ("`python experiments/examples/own_data.py --epoch`", "--epoch"),
        ("`train.py --seeds 10` and `speedrun.py --seed x`", "--seed x"),
        ("```sh\nX=1 python experiments/train.py --seeds 2 > log  # it's fine\n```", None),
        ("`data.py` and `python experiments/examples/own_data.py --epochs 3`", None),
    ],
)
def test_a_wrong_command_is_found(
    monkeypatch: pytest.MonkeyPatch, markdown: str, problem: str | None
) -> None:
    found = [each for each in _commands(markdown)]
    assert found
    problems = [each for each in (_problem(c, monkeypatch) for c in found) if each]
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]


def test_readme_begins_with_all_that_a_reader_needs_first() -> None:
    """On one screen; the rest is in the docs."""
    assert len(README.splitlines()) <= 60
    first = "\n".join(README.splitlines()[:40])
    needed = [
        "experiments/cross_validate.py",
        "<!-- test command -->",
        "report.png",
        "nn.Sequential",
    ]
    pages = ["tutorials/own-network", "results", "explain/intervals", "accelerators", "api"]
    needed += [f"](docs/{page}.md)" for page in pages]
    assert [each for each in needed if each not in first] == []


def test_links_of_readme_exist() -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_extras_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "experiments|digits_jax|tests|figures"
    paths = re.findall(rf"(?<![\w./-])(?:{folders})/[\w./-]*\w\.\w+", text)
    bases = (ROOT, page.parent)
    assert [path for path in paths if not any((base / path).exists() for base in bases)] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = {
        name
        for list_ in re.findall(r"(?:\.|digits_jax)\[(.+?)\]'", text)
        for name in list_.split(",")
    }
    assert named <= set(extras)


@pytest.mark.slow
def test_the_two_processes_of_the_page_on_devices_run(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/devices.md").read_text(encoding="utf-8")
    (block,) = [block for block in _blocks(page, "sh") if "--num-processes" in block]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        block = block.replace(":6006", f":{probe.getsockname()[1]}")
    block = block.replace("experiments/", f"{shlex.quote(str(ROOT))}/experiments/")
    block = block.replace("python ", f"{shlex.quote(sys.executable)} ")
    done = subprocess.run(["sh", "-c", block], cwd=tmp_path, capture_output=True, text=True)
    assert "mean ± sd" in done.stdout, done.stderr
    results = json.loads((tmp_path / "runs/two/results.json").read_text())
    assert results["devices"]["processes"] == 2


def test_the_pods_of_the_kubernetes_job_find_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / "experiments/cross_validate.yaml"
    service, job = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    pods, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pods["completionMode"] == "Indexed"
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/bin:/usr/bin", "OUTPUT_DIR": str(tmp_path / "out")}
    for checkpoints in (False, True):
        if checkpoints:
            (tmp_path / "out/checkpoints").mkdir(parents=True)
        words = subprocess.run(
            [*container["command"], *container["args"]],
            env={**environment, "JOB_COMPLETION_INDEX": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")[:-1]
        given = dict(itertools.pairwise(words))
        assert given["--coordinator-address"].startswith(f"{name}-0.{pod['subdomain']}:")
        assert int(given["--num-processes"]) == pods["completions"] == pods["parallelism"]
        assert given["--process-id"] == "1" and given["--output-dir"] == str(tmp_path / "out")
        assert ("--resume" in words) == checkpoints
        assert _problem(words, monkeypatch) is None


@pytest.mark.parametrize("name", ["README.md", "docs/how-to/notebooks.md"])
def test_a_program_runs_without_warnings_in_a_process_of_its_own(name: str) -> None:
    code = "\n".join(_blocks((ROOT / name).read_text(encoding="utf-8"), "python"))
    assert "cross_validate(" in code
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"0\.\d+ ± 0\.\d+ \(95 % interval 0\.\d+ to 0\.\d+, 5 runs\)\n", done.stdout)
    if "progress=True" in code:  # shows a bar
        assert re.search(r"(\d+)/\1\b", done.stderr) and "accuracy=" in done.stderr
