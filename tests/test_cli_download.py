"""Models from the web: whole and of the wanted content, or one line of error and nothing left behind."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cli_helpers import Run, assert_one_line, image, run, small_model

from cellbasin.cli import download

__all__ = ["image", "run", "small_model"]  # fixtures


class Site(BaseHTTPRequestHandler):
    """`content`: by path, (status, what the header says of its length, bytes)."""

    content: ClassVar[dict[str, tuple[int, int, bytes]]] = {}

    def do_GET(self) -> None:
        status, length, data = self.content.get(self.path, (404, 0, b""))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", data.decode())
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if status == 200:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """Address of a server that serves `Site.content`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where added models go; temporary files go beside it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("CELLBASIN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_model_is_fetched_and_can_be_used(run: Run, small_model: Path, image: Path, site: str, models: Path) -> None:
    data = small_model.read_bytes()
    Site.content = {"/a/mine%20too.safetensors?x=1": (200, len(data), data)}
    digest = hashlib.sha256(data).hexdigest()
    outcome = run("models", "add", f"{site}/a/mine%20too.safetensors?x=1", "--sha256", digest.upper(), "--name", "mine")
    assert outcome.code == 0, outcome.err
    assert (models / "mine.safetensors").read_bytes() == data
    assert run("segment", image, "--model", "mine").code == 0
    assert not list((models.parent / "temporary").iterdir())


def test_what_is_wrong_with_a_download_is_one_line(
    run: Run, small_model: Path, site: str, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small_model.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    Site.content = {
        "/whole.safetensors": (200, len(data), data),
        "/cut.safetensors": (200, len(data), data[:-9]),
        "/changed.safetensors": (200, len(data), data[:-1] + b"?"),
        "/local.safetensors": (302, 0, b"file:///etc/hostname"),
    }
    known = ("--sha256", digest)
    assert_one_line(run("models", "add", f"{site}/none.safetensors", *known), "none.safetensors", "404")
    assert_one_line(run("models", "add", f"{site}/cut.safetensors", *known), f"of {len(data)} bytes")
    assert_one_line(run("models", "add", f"{site}/changed.safetensors", *known), "expected " + digest, "damaged")
    assert_one_line(run("models", "add", f"{site}/local.safetensors", *known), "cannot be fetched")
    assert_one_line(run("models", "add", f"{site}/", *known), "without a file's name")
    assert_one_line(run("models", "add", f"{site}/whole.safetensors"), "--sha256")
    assert_one_line(run("models", "add", f"{site}/whole.safetensors", "--sha256", "abc"), "64 hexadecimal digits")
    assert_one_line(run("models", "add", f"{site}/whole.safetensors", *known, "--offline"), "--offline")
    assert_one_line(run("models", "add", "http://127.0.0.1:9/a.safetensors", *known), "cannot be fetched")
    assert_one_line(run("models", "add", small_model, "--sha256", "0" * 64), digest, "0" * 64)
    monkeypatch.setattr(download, "LARGEST", 1000)
    assert_one_line(run("models", "add", f"{site}/whole.safetensors", *known), "more than 0 MB")
    monkeypatch.setenv("CELLBASIN_OFFLINE", "1")
    assert_one_line(run("models", "add", f"{site}/whole.safetensors", *known), "CELLBASIN_OFFLINE")
    assert not models.exists()
    assert not list((models.parent / "temporary").iterdir())
