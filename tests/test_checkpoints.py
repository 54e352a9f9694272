"""What orbax keeps and what ``Checkpoints`` refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from digits_jax.parallel.mesh import RUNS, place, runs_sharding
from digits_jax.storage.checkpoints import Checkpoints
from digits_jax.storage.errors import CheckpointError
from digits_jax.storage.records import run_checksums


class State(NamedTuple):
    """A pytree of the kinds of leaves that a training state has."""

    weights: Any
    nested: dict[str, Any]
    nothing: tuple[()]


def _state(value: float) -> State:
    return State(
        jnp.full((3, 2), float(value)),
        {"step": np.full(3, 7, np.int32), "one": np.ones((3, 1))},
        (),
    )


def _like(state: State) -> State:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_a_state_comes_back_bitwise_and_two_are_kept(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "new" / "folder", {"a": 1}) as checkpoints:
        assert checkpoints.latest is None
        for epoch in (1, 2, 5):
            checkpoints.save(epoch, _state(epoch))
    with Checkpoints(tmp_path / "new" / "folder", {"a": 1}) as checkpoints:
        assert checkpoints.latest == 5
        restored = checkpoints.restore(_like(_state(0)))
        earlier = checkpoints.restore(_like(_state(0)), epoch=2)
    jax.tree.map(np.testing.assert_array_equal, restored, _state(5))
    jax.tree.map(np.testing.assert_array_equal, earlier, _state(2))
    assert isinstance(restored, State)
    assert restored.nested["step"].dtype == np.int32
    assert _names(tmp_path / "new" / "folder") == ["2", "2.npz", "5", "5.npz"]


def test_saving_an_epoch_twice_keeps_the_first(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, _state(1))
        checkpoints.wait()
        checkpoints.save(1, _state(2))
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore(_like(_state(0))).weights, 1)


def test_arrays_are_written_as_they_are(tmp_path: Path) -> None:
    """Compressing them would take the cores' time for weights, which hardly shrink."""
    state = _state(1)._replace(weights=jnp.zeros((3, 100_000)))
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, state)
    written = sum(path.stat().st_size for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert written >= state.weights.nbytes


def test_nothing_to_restore(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(CheckpointError, match="no checkpoint in .*start without resuming"):
            checkpoints.restore(_like(_state(0)))


def test_what_an_interrupted_save_left_is_cleaned_up(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, _state(1))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "2.npz").write_bytes((tmp_path / "1.npz").read_bytes())  # written before the arrays
    (tmp_path / ".3.npz.0.partial").touch()
    with Checkpoints(tmp_path, {}) as checkpoints:
        assert checkpoints.latest == 1
        np.testing.assert_array_equal(checkpoints.restore(_like(_state(0))).weights, 1)
        checkpoints.save(3, _state(3))
    assert _names(tmp_path) == ["1", "1.npz", "3", "3.npz"]


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (_state(0)._replace(weights=jnp.zeros((4, 2))), r"weights is float32\[3, 2\] there"),
        (_state(0)._replace(weights=jnp.zeros((3, 2), jnp.bfloat16)), r"bfloat16\[3, 2\] here"),
        (_state(0)._replace(nested={"step": np.zeros(3, np.int32)}), "nested/one"),
    ],
)
def test_other_arrays_are_refused_not_cast(tmp_path: Path, like: State, message: str) -> None:
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, _state(1))
        checkpoints.wait()
        with pytest.raises(CheckpointError, match=message):
            checkpoints.restore(_like(like))


def test_another_identity_is_refused_by_name(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, {"data": "abc", "folds": 5}) as checkpoints:
        checkpoints.save(1, _state(1))
    with Checkpoints(tmp_path, {"data": "abc", "folds": 3}) as checkpoints:
        with pytest.raises(CheckpointError, match="folds is 5 there and 3 here"):
            checkpoints.restore(_like(_state(0)))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_sharded_arrays_are_saved_without_their_padding(tmp_path: Path, devices: int) -> None:
    five = {"a": np.arange(15.0, dtype=np.float32).reshape(5, 3), "b": np.arange(5, dtype=np.int32)}
    mesh = Mesh(np.asarray(jax.devices()[:4]), (RUNS,))
    padded = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:3] + 7]), five)
    with Checkpoints(tmp_path, {}) as checkpoints:
        checkpoints.save(1, place(padded, runs_sharding(mesh)), runs=5)
        checkpoints.wait()
        assert checkpoints.shapes() == {"a": "float32[5, 3]", "b": "int32[5]"}
        on_host = checkpoints.restore(five)
        other = runs_sharding(Mesh(np.asarray(jax.devices()[:devices]), (RUNS,)))
        sharded = checkpoints.restore(five, sharding=other)
    jax.tree.map(np.testing.assert_array_equal, on_host, five)
    for name, expected in five.items():
        assert sharded[name].sharding == other
        np.testing.assert_array_equal(sharded[name][:5], expected)
        assert sharded[name].shape[0] == 5 + -5 % devices


def test_a_checksum_does_not_depend_on_where_a_run_is() -> None:
    tree = {
        "a": np.arange(24.0).reshape(8, 3).astype(np.float32),
        "b": np.arange(8, dtype=np.int32),
    }
    on_host = run_checksums(tree)
    on_devices = place(tree, runs_sharding(Mesh(np.asarray(jax.devices()), (RUNS,))))
    assert run_checksums(on_devices) == on_host
    backwards = run_checksums({name: leaf[::-1] for name, leaf in tree.items()})
    assert backwards == {7 - run: checksum for run, checksum in on_host.items()}
    assert len(set(on_host.values())) == len(on_host) == 8


def test_a_checkpoint_of_the_earlier_layout_is_refused_and_kept(tmp_path: Path) -> None:
    """Its record was orbax's custom metadata."""
    with ocp.training.Checkpointer(tmp_path) as writer:
        record = {"identity": {"a": 1}, "arrays": {"weights": "float32[3]"}, "crc32": 1, "kept": 2}
        tree = {"arrays": {"weights": np.ones(3, np.float32)}, "checksums": np.ones(3, np.uint32)}
        writer.save(4, tree, custom_metadata=record)
    with Checkpoints(tmp_path, {}) as checkpoints:
        for use in (
            checkpoints.saved_identity,
            lambda: checkpoints.restore(_like(_state(0))),
            lambda: checkpoints.save(5, _state(5)),
        ):
            with pytest.raises(CheckpointError, match="4 is of an earlier version of digits_jax"):
                use()
    assert _names(tmp_path) == ["4"]
