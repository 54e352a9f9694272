"""Nothing that is read is run, and nothing that is read decides where is written."""

from __future__ import annotations

import ast
import gc
import json
import os
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certifi
import numpy as np
import pytest
import ucimlrepo

from digits_jax import data
from digits_jax.data import DataError, load_digits
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

    monkeypatch.setattr(data, "_download", refuse)


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
        "sha256": np.array(data._sha256(rows)),
        "about": np.array("[null, null]"),
    }
    outside = tmp_path / "outside"
    boom = np.array([Boom(outside)], object)
    bomb = np.zeros((2**21, 65), np.uint8)
    folder = tmp_path / "cache"
    folder.mkdir()
    with pytest.warns(data.DataWarning):  # the forgery itself is well made
        _members(folder / "optdigits.npz", good)
        assert load_digits("uci", cache_dir=folder).provenance.rows == 3
    for crafted in (
        {**good, "rows": boom},
        {**good, "about": boom},
        {**good, "sha256": boom},
        {**good, "rows": bomb, "sha256": np.array(data._sha256(bomb))},
        {**good, "rows": np.where(rows, 200, 0).astype(np.uint8)},
        {"../../outside": rows, "/outside": rows},
    ):
        _members(folder / "optdigits.npz", crafted)
        with pytest.raises(DataError, match="no network in this test"):
            load_digits("uci", cache_dir=folder)
    with pytest.warns(data.DataWarning):  # what is not asked for is not even read
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


def _certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, to make a certificate")
    certificate, key = folder / f"{host}.pem", folder / f"{host}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={host}", "-addext"]
    command += [f"subjectAltName={'IP' if host[0].isdigit() else 'DNS'}:{host}"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class Handler(BaseHTTPRequestHandler):
    """Sends a request for /api on to the server's `target`; else answers with an empty object."""

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # the name that http.server asks for
        on = self.path.startswith("/api")
        self.send_response(302 if on else 200)
        if on:
            self.send_header("Location", self.server.target)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0" if on else "2")
        self.end_headers()
        self.wfile.write(b"" if on else b"{}")


@pytest.fixture
def https(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Starts a loopback server, of a host's certificate, that ucimlrepo takes for UCI."""
    servers = []

    def start(host: str) -> Path:
        certificate, key = _certificate(tmp_path, host)
        server, plain = (ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2))
        server.target = f"http://127.0.0.1:{plain.server_port}/plain"  # type: ignore[attr-defined]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refusals are wanted
        for each in (server, plain):
            options = {"poll_interval": 0.01}
            thread = threading.Thread(target=each.serve_forever, kwargs=options)
            thread.start()
            servers.append((each, thread))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        url = f"https://127.0.0.1:{server.server_port}/api"
        monkeypatch.setattr(ucimlrepo.fetch, "API_BASE_URL", url)
        return certificate

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def _why_refused(tmp_path: Path) -> str:
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as caught:
        load_digits("uci", cache_dir=cache, timeout=20)
    assert not cache.exists()
    return str(caught.value)


def test_a_certificate_that_nobody_signed_is_refused(
    https: Callable[[str], Path], tmp_path: Path
) -> None:
    https("127.0.0.1")
    assert "CERTIFICATE_VERIFY_FAILED" in _why_refused(tmp_path)


def test_a_certificate_of_another_host_is_refused(
    https: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = https("example.org")
    monkeypatch.setattr(certifi, "where", lambda: os.fspath(certificate))
    why = _why_refused(tmp_path)
    assert "CERTIFICATE_VERIFY_FAILED" in why and "IP address mismatch" in why


def test_a_way_from_https_to_http_is_refused(
    https: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = https("127.0.0.1")
    monkeypatch.setattr(certifi, "where", lambda: os.fspath(certificate))
    why = _why_refused(tmp_path)
    assert "CERTIFICATE" not in why, "this one is trusted"
    assert "/plain, which is not https" in why


def test_uci_itself_is_asked_over_tls() -> None:
    assert ucimlrepo.fetch.API_BASE_URL.startswith("https://")
