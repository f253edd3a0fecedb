"""The served API, with the OpenAI client: what a user sends, and what must be refused."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.e2e.conftest import MEDIA_DOMAIN, ROOT, docker, execute, inspect, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import Served

MEDIA = ROOT / "healthchecks" / "media"
TYPES = {
    "image": ("image.jpg", "image/jpeg"),
    "audio": ("audio.wav", "audio/wav"),
    "video": ("video.mp4", "video/mp4"),
}
REDIRECTOR_PORT = 9123
# Runs inside the container, on its loopback: no traffic leaves it. /image.jpg is answered,
# everything else is sent on to where no request may go.
REDIRECTOR = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/image.jpg":
            self.send_response(200); self.end_headers()
            self.wfile.write(open("/tmp/image.jpg", "rb").read())
            return
        if self.path.startswith("/landed"):
            open("/tmp/landed", "w").write(self.path)
        self.send_response(302)
        target = {"/metadata": "http://169.254.169.254/landed"}
        self.send_header("Location", target.get(self.path, "http://127.0.0.1:9123/landed"))
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9123), Handler).serve_forever()
"""


def part(kind: str, url: str | None = None) -> dict[str, Any]:
    """Return one media part of a message, as a data URL unless a URL is given."""
    name, mime = TYPES[kind]
    data = base64.b64encode((MEDIA / name).read_bytes()).decode()
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url or f"data:{mime};base64,{data}"}}


def ask(client: openai.OpenAI, *parts: dict[str, Any], text: str = "Describe it.") -> Any:
    """Send one user message and return the completion."""
    content: Any = [*parts, {"type": "text", "text": text}]
    return client.chat.completions.create(
        model="tiny-omni", max_tokens=8, messages=[{"role": "user", "content": content}]
    )


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    # With the client's own retries: after refusing a media URL, vLLM 0.23 closes a connection
    # that it had promised to keep.
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="EMPTY", timeout=120) as client:
        yield client


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_each_modality_costs_prompt_tokens(client: openai.OpenAI, kind: str) -> None:
    with_media = ask(client, part(kind)).usage
    without = ask(client).usage
    assert with_media.completion_tokens >= 1
    assert with_media.prompt_tokens > without.prompt_tokens + 10


def test_the_guides_functional_request(client: openai.OpenAI) -> None:
    question = "Analyze this audio, image, and video together."
    answer = ask(client, part("image"), part("audio"), part("video"), text=question)
    assert answer.usage.completion_tokens >= 1


def test_streaming(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny-omni",
            max_tokens=8,
            stream=True,
            messages=[{"role": "user", "content": "Count."}],
        )
    )
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_more_images_than_allowed_are_refused_cleanly(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="image"):
        ask(client, *[part("image")] * 6)
    assert ask(client).usage.completion_tokens >= 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/health", "http://169.254.169.254/latest/meta-data"]
)
@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_media_of_private_addresses_is_refused(client: openai.OpenAI, kind: str, url: str) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, part(kind, url))
    assert 400 <= refused.value.status_code < 500, refused.value
    assert "allowed domains" in refused.value.message


def test_files_of_the_container_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="Cannot load local files"):
        ask(client, part("image", "file:///etc/passwd"))
    assert ask(client).usage.completion_tokens >= 1


@pytest.fixture(scope="module")
def redirector(served: Served) -> Iterator[str]:
    """Serve media inside the container, under a domain that the appliance allows."""
    del served
    found = inspect("e2e")
    # What a name server would do. The file is the engine's, mounted read-only inside.
    hosts = Path(found["HostsPath"])
    hosts.write_text(hosts.read_text() + f"127.0.0.1 {MEDIA_DOMAIN}\n")
    image = base64.b64encode((MEDIA / "image.jpg").read_bytes()).decode()
    docker("exec", "--interactive", "e2e", "sh", "-c", "base64 -d > /tmp/image.jpg", text=image)
    subprocess.run(
        ["docker", "exec", "--detach", "e2e", "python3", "-c", REDIRECTOR], check=True, timeout=60
    )
    url = f"http://{MEDIA_DOMAIN}:{REDIRECTOR_PORT}"
    fetch = f"import urllib.request; urllib.request.urlopen({url!r} + '/image.jpg').read()"
    wait_until(
        "the redirector answers", 30, lambda: not execute("e2e", "python3", "-c", fetch).returncode
    )
    yield url
    execute("e2e", "python3", "-c", _KILL)


_KILL = r"""
import os, pathlib
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    command = (folder / "cmdline").read_bytes()
    if b"HTTPServer" in command and int(folder.name) != os.getpid():
        os.kill(int(folder.name), 15)
"""


def test_an_allowed_domain_is_fetched_but_its_redirects_are_not(
    client: openai.OpenAI, redirector: str
) -> None:
    assert ask(client, part("image", f"{redirector}/image.jpg")).usage.completion_tokens >= 1
    for path in ("/loopback", "/metadata"):
        with pytest.raises(openai.APIStatusError) as refused:
            ask(client, part("image", f"{redirector}{path}"))
        assert refused.value.status_code < 600, refused.value
    assert execute("e2e", "test", "-e", "/tmp/landed").returncode == 1
    assert ask(client).usage.completion_tokens >= 1


def test_the_default_refuses_every_url(served: Served) -> None:
    """What this appliance allows was set for these tests; the default allows nothing."""
    done = subprocess.run(
        served.cli.arguments("plan", "--json", server__allowed_media_domains="[]"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    words = json.loads(done.stdout)["serve_args"]
    assert re.fullmatch(r".*\.invalid", words[words.index("--allowed-media-domains") + 1])
