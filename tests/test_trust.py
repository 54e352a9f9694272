"""Nothing that is read is run, and nothing that is read decides where is written."""

from __future__ import annotations

import ast
import gc
import hashlib
import json
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from digits_jax import uci
from digits_jax.data import DataError, DataWarning, load_digits
from digits_jax.storage.checkpoints import Checkpoints
from digits_jax.storage.errors import CheckpointError

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("digits_jax/**/*.py"), *ROOT.glob("experiments/**/*.py")])
# Modules that run what they read, or that make others do it.
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}
UNSAFE_NAMES = {"eval", "exec", "compile", "__import__"}
UNSAFE_ATTRIBUTES = {"os.system", "os.popen", "torch.load", "joblib.load", "pandas.read_pickle"}


# --- the source ----------------------------------------------------------------------------------


def _unsafe(source: str) -> list[str]:
    """What a program does that could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [name for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in UNSAFE_NAMES | UNSAFE_ATTRIBUTES or options.get("shell", "False") != "False":
            found.append(called)
        if called in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
            found.append(f"{called} without allow_pickle=False")
        if called.startswith("np.save") and options.get("allow_pickle", "False") != "False":
            found.append(f"{called} with allow_pickle")
    return found


def test_no_source_runs_what_it_reads() -> None:
    assert len(SOURCES) > 20
    for path in SOURCES:
        assert not _unsafe(path.read_text()), path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import load",
        "joblib.load('x')",
        "import yaml.nodes",
        "eval('1')",
        "import os\nos.system('ls')",
        "subprocess.run('ls', shell=True)",
        "np.load('x.npy')",
        "np.load('x.npy', allow_pickle=True)",
        "np.savez(file, allow_pickle=True)",
    ],
)
def test_the_search_finds_what_is_unsafe(source: str) -> None:
    assert _unsafe(source)


# --- files ---------------------------------------------------------------------------------------


class Boom:
    """An object whose unpickling writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """UCI is out of reach."""

    def refuse(timeout: float) -> None:
        raise ConnectionError("no network in this test")

    monkeypatch.setattr(uci, "download", refuse)


def _sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def _members(path: Path, members: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in members.items():
            with archive.open(name + ".npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=True)


@pytest.mark.usefixtures("nowhere")
def test_a_crafted_cache_runs_nothing_writes_nothing_and_is_not_used(tmp_path: Path) -> None:
    rows = np.ones((3, 65), np.uint8)
    good = {
        "rows": rows,
        "sha256": np.array(_sha256(rows)),
        "about": np.array("[null, null]"),
    }
    outside = tmp_path / "outside"
    boom = np.array([Boom(outside)], object)
    bomb = np.zeros((2**21, 65), np.uint8)
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.warns(DataWarning):  # the forgery itself is well made
        _members(folder / "optdigits.npz", good)
        assert load_digits("uci", cache_dir=folder).provenance.rows == 3
    for crafted in (
        {**good, "rows": boom},
        {**good, "about": boom},
        {**good, "sha256": boom},
        {**good, "rows": bomb, "sha256": np.array(_sha256(bomb))},
        {**good, "rows": np.where(rows, 200, 0).astype(np.uint8)},
        {"../../outside": rows, "/outside": rows},
    ):
        _members(folder / "optdigits.npz", crafted)
        with pytest.raises(DataError, match="no network in this test"):
            load_digits("uci", cache_dir=folder)
    with pytest.warns(DataWarning):  # what is not asked for is not even read
        _members(folder / "optdigits.npz", {**good, "../../outside": rows, "boom": boom})
        load_digits("uci", cache_dir=folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "optdigits.npz"]


TREE = {
    "states": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "history": np.zeros((2, 1), np.float32),
}


def _save(folder: Path, *epochs: int) -> None:
    with Checkpoints(folder, {"name": "x"}) as saved:
        for epoch in epochs:
            saved.save(epoch, TREE)
            saved.wait()


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_links_in_a_checkpoint_folder_lead_no_writing_out_of_it(tmp_path: Path) -> None:
    folder, outside = tmp_path / "checkpoints", tmp_path / "outside"
    _save(folder, 1, 2)
    shutil.move(folder / "1", outside)
    (outside / "precious").write_text("mine")
    (folder / "1").symlink_to(outside)
    (folder / "7.orbax-checkpoint-tmp").symlink_to(outside)
    before = _tree(outside)
    try:
        _save(folder, 3, 4)  # the older ones go, and what an interrupted save left
    except Exception as error:  # refusing is as good
        assert "link" in str(error), error
    gc.collect()  # what a refused save left open
    assert _tree(outside) == before


@pytest.mark.parametrize("as_files", [False, True], ids=["database", "files"])
@pytest.mark.parametrize("name", ["../../../outside", "/outside", "..", "__class__", "v"])
def test_names_in_a_checkpoint_lead_nowhere(tmp_path: Path, name: str, as_files: bool) -> None:
    """Also where the arrays are said to be files of their own, under their names."""
    folder = tmp_path / "deep" / "er" / "checkpoints"
    _save(folder, 1)
    changed = 0
    for path in (folder / "1").rglob("*"):
        if path.is_file() and b'"w"' in (text := path.read_bytes()) and text[:1] == b"{":
            text = text.replace(b'"w"', json.dumps(name).encode())
            if as_files:
                assert b'"use_ocdbt": true' in text
                text = text.replace(b'"use_ocdbt": true', b'"use_ocdbt": false')
            path.write_bytes(text.replace(b"'w'", repr(name).encode()))
            changed += 1
    assert changed, "no metadata names the array"
    before = _tree(tmp_path)
    with Checkpoints(folder, {"name": "x"}) as saved, pytest.raises(CheckpointError) as caught:
        saved.restore(TREE)
    assert "checkpoints/1 is damaged (ValueError: orbax can't read its list of" in str(caught.value)
    assert _tree(tmp_path) == before and not (tmp_path / "outside").exists()


# --- the download --------------------------------------------------------------------------------


def test_a_certificate_that_nobody_signed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, to make a certificate")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refusals are wanted
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(uci, "API_URL", f"https://127.0.0.1:{server.server_port}/api")
        with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
            load_digits("uci", cache_dir=tmp_path / "cache", timeout=20)
        server.shutdown()
        thread.join()
    assert not (tmp_path / "cache").exists()


def test_uci_itself_is_asked_over_tls() -> None:
    assert uci.API_URL.startswith("https://")
