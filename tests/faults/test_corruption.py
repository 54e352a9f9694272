"""Every file of a checkpoint in turn, cut, flipped, emptied or removed: never a wrong state."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from fault_runner import CROSS_VALIDATE, EPOCHS, Script, Tally, differences

import digits_jax as dj
from digits_jax.runs.results import CrossValidation
from digits_jax.storage.checkpoints import Checkpoints
from digits_jax.storage.errors import CheckpointError, DamagedError
from digits_jax.storage.records import run_checksums

pytestmark = pytest.mark.slow  # damage to files

IDENTITY = {"data": "abc", "runs": ["fold 1", "fold 2", "refit"], "rate": 1e-3}


RECIPE = dj.Recipe(network=dj.DigitsCNN(conv_features=(2,), dense_features=()))


def _tree(epoch: int) -> dict[str, Any]:
    """What a saved epoch holds, for three runs."""
    draw = np.random.default_rng(epoch)
    return {
        "states": {
            "kernel": draw.normal(size=(3, 40, 5)).astype(np.float32),
            "step": np.full(3, epoch, np.int32),
        },
        "history": draw.normal(size=(3, epoch)).astype(np.float32),
    }


def _damages(content: bytes, flips: int, rng: random.Random) -> Iterator[tuple[str, bytes | None]]:
    yield "missing", None
    yield "empty", b""
    yield "cut", content[: len(content) // 2]
    for _ in range(flips):
        at = rng.randrange(len(content))
        bit = 1 << rng.randrange(8)
        yield "flipped", content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def _restore(folder: Path, **options: Any) -> tuple[int, Any]:
    """The newest undamaged epoch and its arrays."""
    with Checkpoints(folder, IDENTITY, **options) as checkpoints:

        def read(epoch: int) -> tuple[int, Any]:
            return epoch, checkpoints.restore(_tree(epoch), epoch)

        return checkpoints.newest(read)


def _equal(tree: Any, expected: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, tree, expected)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of epochs 2 and 3."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder, IDENTITY) as checkpoints:
        for epoch in (2, 3):
            checkpoints.save(epoch, _tree(epoch))
    assert _restore(folder)[0] == 3
    return folder


def test_damage_of_any_file_is_named_or_harmless(
    saved: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tally: Tally,
    all_faults: bool,
) -> None:
    rng = random.Random(0)
    files = [path for path in sorted((saved / "3").rglob("*")) if path.is_file()]
    assert len(files) > 8
    files.append(saved / "3.npz")
    used = set()
    for file in files:
        name = file.relative_to(saved)
        for kind, content in _damages(file.read_bytes(), 40 if all_faults else 2, rng):
            copy = tmp_path / "copy"
            shutil.copytree(saved, copy)
            (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
            caplog.clear()
            epoch, tree = _restore(copy, read_only=True)
            warned = f"checkpoint {copy / '3'} is damaged" in caplog.text
            if not _equal(tree, _tree(epoch)) or warned == (epoch == 3):
                tally.lose(f"checkpoint files {kind}", f"{name}: epoch {epoch}, {caplog.text}")
            tally.survived(f"checkpoint files {kind}")
            used |= {str(name)} if epoch == 2 else set()
            shutil.rmtree(copy)
    assert len(used) >= 4, "metadata of two kinds, a manifest, a tree and the arrays themselves"
    assert "3.npz" in used


def test_any_changed_bit_of_a_record_is_damage(
    saved: Path, tmp_path: Path, tally: Tally, all_faults: bool
) -> None:
    """Also where nothing would read it: the names of a zip file, its times, its padding."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    record = tmp_path / "3.npz"
    content = record.read_bytes()
    for kind, damaged in _damages(content, 2000 if all_faults else 100, random.Random(1)):
        record.unlink() if damaged is None else record.write_bytes(damaged)
        with Checkpoints(tmp_path, {}, read_only=True) as checkpoints:
            with pytest.raises(DamagedError, match=r"/3 is damaged \(.*3\.npz"):
                checkpoints.saved_identity(3)
            assert checkpoints.saved_identity()["rate"] == 1e-3  # of epoch 2
        record.write_bytes(content)
        tally.survived(f"records {kind}")


def test_a_record_of_another_epoch_is_damage(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "2.npz", tmp_path / "3.npz")
    assert _restore(tmp_path)[0] == 2


def test_damage_everywhere_is_an_error_that_names_all(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    (tmp_path / "2.npz").unlink()
    with pytest.raises(CheckpointError, match=r"all .*/3 is damaged .*/2 is damaged.*delete"):
        _restore(tmp_path)
    left = {path.name for path in tmp_path.iterdir()} - {".lock"}
    assert left == {"2", "3", "3.npz"}, "nothing is deleted"


@pytest.mark.parametrize("damage", ["metadata", "record"])
def test_a_damaged_checkpoint_makes_way_for_the_next(
    saved: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    if damage == "metadata":
        metadata = tmp_path / "3" / "_CHECKPOINT_METADATA"
        metadata.write_text(metadata.read_text().replace("metrics", "netrics"))
    else:
        (tmp_path / "3.npz").unlink()
    with Checkpoints(tmp_path, IDENTITY) as checkpoints:
        checkpoints.save(3, _tree(3))
    assert _restore(tmp_path)[0] == 3


def test_checksums_are_of_each_run_alone() -> None:
    tree = _tree(3)
    checksums = run_checksums(tree)
    assert list(checksums) == [0, 1, 2]
    later = run_checksums(jax.tree.map(lambda leaf: leaf[1:], tree))
    assert later == {0: checksums[1], 1: checksums[2]}
    tree["states"]["kernel"][1, 0, 0] = -tree["states"]["kernel"][1, 0, 0]
    changed = run_checksums(tree)
    assert [run for run in changed if changed[run] != checksums[run]] == [1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CrossValidation]:
    """Checkpoints of epochs 2 and 3 of a cross-validation, and its result."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, _cross_validate(folder)


def _cross_validate(folder: Path) -> CrossValidation:
    digits = dj.load_digits("bundled")
    runs = dj.make_runs(dj.kfold_splits(digits.labels[:200], 2))
    data = digits.images[:200], digits.labels[:200]
    options: dict[str, Any] = {"epochs": 3, "checkpoints": folder, "checkpoint_every": 1}
    return dj.cross_validate(data, runs, recipe=RECIPE, resume=True, **options)


def test_training_goes_on_from_the_step_before(
    trained: tuple[Path, CrossValidation],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, whole = trained
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (largest,) = sorted((tmp_path / "3").rglob("*"), key=lambda path: path.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 3] ^= 1
    largest.write_bytes(content)
    states = dj.load_states(tmp_path, recipe=RECIPE).states
    np.testing.assert_array_equal(states.epoch, 2)
    assert f"{tmp_path / '3'} is damaged" in caplog.text
    caplog.clear()
    resumed = _cross_validate(tmp_path)
    assert caplog.text.count(f"{tmp_path / '3'} is damaged") == 1
    assert _equal(*({**vars(each), "runs": None, "seconds": {}} for each in (resumed, whole)))
    caplog.clear()
    assert _equal(_cross_validate(tmp_path).states, whole.states)
    assert not caplog.records, "the damaged one was replaced"


def test_a_script_says_it_in_one_line(
    tmp_path: Path, cache: Path, reference: Script, tally: Tally
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference.folder, folder)
    (folder / "checkpoints" / str(EPOCHS) / "state" / "manifest.ocdbt").write_bytes(b"")
    code, errors = Script([*CROSS_VALIDATE.words, "--resume"], folder, cache).end()
    assert code == 0
    words = "".join(errors.split())  # it breaks lines where the console ends
    assert words.startswith(f"WARNINGcheckpoint{folder}/checkpoints/{EPOCHS}isdamaged(")
    assert words.endswith(");itisnotused")
    different = differences(folder, reference.folder, CROSS_VALIDATE.arrays)
    if different:
        tally.lose("damaged runs", f"{different} differ")
    tally.survived("damaged runs")


def test_other_checkpoints_are_not_written_over(trained: tuple[Path, CrossValidation]) -> None:
    digits = dj.load_digits("bundled")
    runs = dj.make_runs(dj.kfold_splits(digits.labels, 2))
    with pytest.raises(
        CheckpointError, match="holds checkpoints of epoch 3 already; give resume=True"
    ):
        dj.cross_validate(digits.data, runs, epochs=1, checkpoints=trained[0])


def test_a_reader_does_not_disturb_a_writer(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, IDENTITY) as writer:
        writer.save(1, _tree(1))
        writer.wait()
        unfinished = tmp_path / "2.orbax-checkpoint-tmp"
        unfinished.mkdir()
        assert _restore(tmp_path, read_only=True)[0] == 1
        assert unfinished.exists()


CACHED = """
import sys
import warnings
from pathlib import Path
import jax
from common import startup
startup.start_jax(compilation_cache=True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
double = jax.jit(lambda x: (x @ x.T).sum())
print(double(jax.numpy.ones((3, 4))))
"""


def test_a_compiled_program_that_was_cut_is_replaced(tmp_path: Path) -> None:
    """JAX writes its cache in place, so that a kill or a full disk may cut a file short."""

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", CACHED],
            cwd=Path(__file__).parents[2] / "experiments",
            env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.splitlines()[-1]  # after "starting JAX"

    assert run() == "36.0"
    programs = {path: path.read_bytes() for path in tmp_path.rglob("jit__lambda-*-cache")}
    assert len(programs) == 1
    for path, content in programs.items():
        path.write_bytes(content[:100])
    assert run() == "36.0"
    assert {path: len(path.read_bytes()) > 100 for path in programs} == dict.fromkeys(
        programs, True
    )
