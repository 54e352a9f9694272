"""``--help``: the options of a script in groups, wrapped where a line is full."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import re
import shutil
import sys
import textwrap
import typing
from typing import Annotated, Any

import tyro

# The options of each group, by name; others are the script's own.
GROUPS = {
    "data": "data folds repeats stratified test_size split_seed validation rows splits".split(),
    "recipe": "recipe methods epochs batch_size learning_rate label_smoothing set".split(),
    "training": "seed seeds members refit patience keep checkpoint_every wave_size "
    "compilation_cache".split(),
    "output": "output_dir resume open svg tensorboard track quiet verbose".split(),
}
JOB = "multi-process"


def text(config: Any, docstring: str) -> str:
    """The help of a script.

    Args:
        config: the class of its options.
        docstring: the script's, of which the beginning is shown.

    Raises:
        OSError: there is no source, which says what the options are.
    """
    grouped, said = _grouped(config), _Captured(sys.stdout)
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        tyro.cli(grouped, args=["--help"], description="")
    _usage, _, boxes = said.getvalue().partition("\n\n")  # the commands say more
    return f"{beginning(docstring)}\n\n{boxes.rstrip()}"


class _Captured(io.StringIO):
    """What is printed, for a terminal where another stream is one."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.isatty = stream.isatty  # type: ignore[method-assign]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the lines of boxes."""
        return sys.__stdout__.encoding if sys.__stdout__ else "utf-8"


def beginning(docstring: str) -> str:
    """The first paragraph and the commands below it; the rest is for who opens the file."""
    first, *others = inspect.cleandoc(docstring).split("\n\n")
    commands = others[0].splitlines() if others and others[0].startswith(" ") else []
    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(" ".join(first.split()), width)
    lines += [""] * bool(commands)
    for command in commands:
        lines += textwrap.indent(_over_lines(command.strip(), width - 4), "    ").splitlines()
    return "\n".join(lines)


def _over_lines(command: str, width: int) -> str:
    """A command in a form that a shell takes: lines end before a flag, or where they must."""
    for flags_alone in (True, False):
        glued = re.sub(r" (?!--)", "\N{NO-BREAK SPACE}", command) if flags_alone else command
        lines = textwrap.wrap(
            glued,
            width - 2,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        if max(map(len, lines)) <= width - 2:
            break
    return " \\\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _grouped(config: Any) -> Any:
    """A class of the same options in classes by group, which tyro shows as boxes."""
    texts, hints = _texts(config), typing.get_type_hints(config, include_extras=True)
    groups: dict[str, list[Any]] = {name: [] for name in ("", *GROUPS)}
    by_name = {option: name for name, options in GROUPS.items() for option in options}
    job = None
    for field in dataclasses.fields(config):
        plain = typing.get_type_hints(config)[field.name]
        if dataclasses.is_dataclass(plain):
            job = plain
            continue
        shown = tyro.conf.arg(help=texts[field.name], help_behavior_hint=_hint)
        missing = field.default is dataclasses.MISSING
        default = dataclasses.field(kw_only=True) if missing else field.default
        option = (field.name, Annotated[hints[field.name], shown, tyro.conf.DisallowNone], default)
        groups[by_name.get(field.name, "")].append(option)
    for name, options in groups.items():
        if name:
            options.sort(key=lambda option: GROUPS[name].index(option[0]))
        if len(options) == 1 and name:  # no box for one
            groups[""] += options
            options.clear()
    boxes = [(name, _class(name, options)) for name, options in groups.items() if name and options]
    if job is not None:
        boxes.append((JOB, _grouped(job)))
    fields = groups[""]
    for name, box in boxes:
        label = tyro.conf.arg(name=name, help="")
        hint: Any = Annotated[box, tyro.conf.OmitArgPrefixes, label]
        needed = any(each.default is dataclasses.MISSING for each in dataclasses.fields(box))
        default = dataclasses.field(kw_only=True) if needed else box()
        fields.append((name.replace("-", "_"), hint, default))
    return _class("options", fields)


def _class(name: str, fields: Any) -> Any:
    made = dataclasses.make_dataclass(name.replace("-", "_"), fields, kw_only=True, frozen=True)
    made.__doc__ = ""
    return made


def _texts(config: Any) -> dict[str, str]:
    """The docstrings of a class's own and inherited fields, by name."""
    texts: dict[str, str] = {}
    bases: list[Any] = [base for base in config.__mro__ if dataclasses.is_dataclass(base)]
    for base in reversed(bases):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                # As one line: tyro by itself ends lines where the source's begin with a flag.
                text = ast.literal_eval(below.value)
                texts[ast.unparse(field.target)] = " ".join(text.split())
    return texts


def _hint(default: str) -> str:
    """What follows an option's text: its default, where that is something."""
    if default in ("None", "", "False"):
        return ""
    return "(default: on)" if default == "True" else f"(default: {default})"
