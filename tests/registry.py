"""A container registry for tests: enough of the OCI distribution API to pull from it.

Read-only and without TLS, on 127.0.0.1, where Docker engines speak plain HTTP unasked. What it
gives is made here, byte by byte, so that the same content has the same digest everywhere.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
# A file in every image, whose content tells one image from another.
FILE = "content"


def digest_of(content: bytes) -> str:
    """Return the digest by which registries name content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@contextmanager
def running(label: str) -> Iterator[Registry]:
    """Run a registry, all of whose images have this label; it ends with the block."""
    registry = Registry(label)
    try:
        yield registry
    finally:
        registry.stop()


class Registry:
    """A running registry. `requests` holds what it was asked; the switches make it fail."""

    def __init__(self, label: str) -> None:
        """Start it; `label` is a label of every image, by which a test finds and removes them."""
        self.label = label
        self.blobs: dict[str, tuple[str, bytes]] = {}
        self.tags: dict[str, str] = {}
        self.requests: list[str] = []
        self.without_blobs = False
        self.hangs = threading.Event()
        self.released = threading.Event()
        self._server = _Server(self)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop it; from then on its port refuses connections. May be called again."""
        self.released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def name(self, tag: str, repository: str = "test/base") -> str:
        """Return the reference of an image in this registry."""
        return f"{self.address}/{repository}:{tag}"

    def publish(self, tag: str, content: str, repository: str = "test/base") -> str:
        """Let a tag stand for an image with this content; return its digest.

        It is a list for two machines, as vllm-ascend's images are.
        """
        manifests = [
            {**self._image(content, machine), "platform": {"os": "linux", "architecture": machine}}
            for machine in ("amd64", "arm64")
        ]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        digest = str(self._put(INDEX, _json(index))["digest"])
        self.tags[f"{repository}:{tag}"] = digest
        return digest

    def forget(self, digest: str) -> None:
        """Hold a manifest no more."""
        del self.blobs[digest]

    def _image(self, content: str, machine: str) -> dict[str, Any]:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tree:
            entry = tarfile.TarInfo(FILE)
            entry.size = len(content.encode())
            tree.addfile(entry, io.BytesIO(content.encode()))
        config = {
            "architecture": machine,
            "os": "linux",
            "config": {"Cmd": [f"/{FILE}"], "Labels": {self.label: "yes"}},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(archive.getvalue())]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._put(CONFIG, _json(config)),
            "layers": [self._put(LAYER, gzip.compress(archive.getvalue(), mtime=0))],
        }
        return self._put(MANIFEST, _json(manifest))

    def _put(self, kind: str, content: bytes) -> dict[str, Any]:
        self.blobs[digest_of(content)] = (kind, content)
        return {"mediaType": kind, "digest": digest_of(content), "size": len(content)}

    def find(self, path: str) -> tuple[str, bytes] | None:
        """Return the type and the content that a path of the API stands for."""
        if path == "/v2/":
            return "application/json", b"{}"
        rest = path.removeprefix("/v2/")
        repository, what, reference = rest.partition("/manifests/")
        if what:
            found = self.blobs.get(self.tags.get(f"{repository}:{reference}", reference))
            return found if found and found[0] in (INDEX, MANIFEST) else None
        return None if self.without_blobs else self.blobs.get(rest.partition("/blobs/")[2])


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


@dataclass
class _Server(ThreadingHTTPServer):
    registry: Registry
    daemon_threads: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Engines with containerd's image store try TLS first, and go on without it only where the
    # answer to that begins with `HTTP/`, which an answer in the default version does not.
    default_request_version = "HTTP/1.0"
    server: _Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        registry = self.server.registry
        registry.requests.append(f"{self.command} {self.path}")
        if registry.hangs.is_set():
            registry.released.wait(60)
        found = registry.find(self.path)
        problem = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
        kind, content = found or ("application/json", _json(problem))
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", digest_of(content))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: `requests` has it all."""
