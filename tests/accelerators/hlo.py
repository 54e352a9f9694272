"""What a device would run, read from the optimised HLO text of a compiled program.

    python tests/accelerators/hlo.py FILE [--top 30]

prints the loops of a program with what each launches, and the costliest instructions of the largest
loop (the training step): by the TPU compiler's own estimate of cycles where the text has one, else
by the megabytes that they write. ``aot.py --hlo FOLDER`` writes such files.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

COLLECTIVES = (
    "all-gather all-reduce all-to-all collective-broadcast collective-permute ragged-all-to-all "
    "recv reduce-scatter send"
).split()
# Opcodes that name or order values, and launch nothing.
FREE = set(
    "add-dependency after-all bitcast constant domain get-tuple-element opt-barrier "
    "optimization-barrier parameter partition-id replica-id tuple".split()
)
CALLS = {"async-start", "call", "conditional", "while"}  # what they call is counted instead
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One line of HLO: ``%name = type opcode(operands), attributes``."""

    name: str
    type: str
    opcode: str
    rest: str  # from the operands on

    @property
    def kind(self) -> str:
        """The opcode; of fusions and custom calls also which."""
        if self.opcode == "fusion":  # a GPU's Triton kernels name themselves, others are kinds
            return "fusion:" + (self._find(r'"kind":"(__\w+)"') or self._find(r"kind=(\w+)") or "?")
        if self.opcode == "custom-call":
            return "custom-call:" + (self._find(r'custom_call_target="([^"]+)"') or "?")
        return self.opcode

    @property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate, where it has one."""
        cycles = int(self._find(r'"estimated_cycles":"(\d+)"') or 2**40)
        return cycles if cycles < 2**40 else None  # larger ones stand for "not known"

    @property
    def written(self) -> int:
        """Bytes of its results, without a TPU's padding."""
        arrays = _ARRAY.findall(self.type)
        return sum(
            BYTES.get(dtype, 4) * math.prod(int(n) for n in shape.split(",") if n)
            for dtype, shape in arrays
        )

    @property
    def source(self) -> str:
        """Where in the JAX program it comes from."""
        return self._find(r'op_name="([^"]*)"') or ""

    def called(self, *attributes: str) -> list[str]:
        """The computations that attributes name, such as ``body=%region_3``."""
        names: list[str] = []
        for attribute in attributes:
            found = self._find(attribute + r"=\{([^}]*)\}") or self._find(
                attribute + r"=(%?[\w.\-]+)"
            )
            names += [name.strip().lstrip("%") for name in (found or "").split(",") if name.strip()]
        return names

    @property
    def trips(self) -> int | None:
        """How often a loop runs; None where the text doesn't say, as on a TPU."""
        found = self._find(r'known_trip_count":\{"n":"(\d+)"')
        return int(found) if found else None

    def _find(self, pattern: str) -> str | None:
        found = re.search(pattern, self.rest)
        return found[1] if found else None


class Program(NamedTuple):
    """The computations of an HLO module, by name."""

    computations: dict[str, list[Instruction]]
    entry: str


class Launch(NamedTuple):
    """An instruction that the device runs, and the loop that it is in."""

    loop: str  # "" for none, else such as "/while" or "/while/condition"
    times: int | None  # of the loop, all loops around it included; None if not known
    instruction: Instruction


def parse(text: str) -> Program:
    """Reads ``compiled.as_text()``."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            start = _COMPUTATION.match(line)
            if start:
                current = computations.setdefault(start[2], [])
                entry = start[2] if start[1] else entry
        elif line.startswith("}"):
            current = None
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[1], found[2])
            if instruction is not None:
                current.append(instruction)
    return Program(computations, entry)


def _instruction(name: str, text: str) -> Instruction | None:
    depth, end = 0, 0
    for character in text:  # a type is one word, or a tuple in parentheses
        depth += (character == "(") - (character == ")")
        if depth == 0 and (character == " " or (character == ")" and text[0] == "(")):
            break
        end += 1
    end += text[end : end + 1] == ")"
    opcode = re.match(r"\s*([a-z][a-z0-9\-]*)\(", text[end:])
    if opcode is None:
        return None
    return Instruction(name, text[:end], opcode[1], text[end:][opcode.end() - 1 :])


def launches(
    program: Program, computation: str | None = None, loop: str = "", times: int | None = 1
) -> Iterator[Launch]:
    """All that a device runs, each instruction once for each place where it is called.

    Both branches of a conditional count. What is inside of a fusion is part of one kernel, and
    doesn't appear.
    """
    for each in program.computations.get(computation or program.entry, []):
        if each.opcode in FREE:
            continue
        yield Launch(loop, times, each)
        inner: list[tuple[str, str, int | None]] = []
        if each.opcode == "while":
            often = None if times is None or each.trips is None else times * each.trips
            inner = [(name, loop + "/while", often) for name in each.called("body")]
            inner += [(name, loop + "/while/condition", often) for name in each.called("condition")]
        elif each.opcode == "conditional":
            branches = each.called("branch_computations", "true_computation", "false_computation")
            inner = [(name, loop + "/branch", times) for name in branches]
        elif each.opcode in CALLS:
            inner = [(name, loop, times) for name in each.called("to_apply", "calls")]
        for name, inside, often in inner:
            yield from launches(program, name, inside, often)


def loops(program: Program) -> list[dict[str, Any]]:
    """Each loop, and what is outside of all loops: what one pass of it runs."""
    found: dict[tuple[str, int | None], list[Instruction]] = {}
    for loop, times, each in launches(program):
        found.setdefault((loop, times), [])
        if each.opcode not in CALLS and not each.opcode.endswith("-done"):
            found[loop, times].append(each)
    return [
        {
            "loop": loop,
            "times": times,
            "launches": len(each),
            "cycles": sum(one.cycles or 0 for one in each) or None,
            "kinds": dict(Counter(one.kind for one in each).most_common(12)),
        }
        for (loop, times), each in found.items()
    ]


def largest(loops: list[dict[str, Any]]) -> dict[str, Any]:
    """The loop whose pass launches the most: the training step, where there is one."""
    return max(loops, key=lambda loop: (loop["loop"] != "", loop["launches"]))


def collectives(text: str) -> list[str]:
    """The operations of the text with which devices talk to each other."""
    found = re.findall(rf"\b({'|'.join(COLLECTIVES)})(?:-start|-done)?\(", text)
    return sorted(set(found))


def main() -> None:
    """Prints the loops of a file, and the costliest instructions of the largest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--top", type=int, default=30, help="instructions to print")
    arguments = parser.parse_args()
    text = arguments.file.read_text()
    program = parse(text)
    all_loops = loops(program)
    print("collectives:", ", ".join(collectives(text)) or "none")
    for loop in all_loops:
        print(*(f"{name}: {value}" for name, value in loop.items()), sep="  ")
    step = largest(all_loops)["loop"]
    inside = [each for loop, _, each in launches(program) if loop == step]
    inside = [each for each in inside if each.opcode not in CALLS]
    inside.sort(key=lambda each: (each.cycles or 0, each.written), reverse=True)
    print(f"{'cycles':>9} {'writes, MB':>10}  instruction, kind, and where it comes from")
    for each in inside[: arguments.top]:
        cycles = "-" if each.cycles is None else each.cycles
        print(f"{cycles:>9} {each.written / 1e6:10.3f}  {each.name} {each.kind} {each.source}")


if __name__ == "__main__":
    main()
