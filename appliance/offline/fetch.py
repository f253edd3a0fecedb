"""Fetching media from a URL: allowed domains, public addresses, no redirects, bounded.

The address that was checked is the one that is connected to: a name that is resolved twice can
mean another machine the second time. Proxies of the environment are left aside for the same
reason: behind one, nobody here sees which address a name is taken for.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from appliance.offline.flaw import Flaw

if TYPE_CHECKING:
    from collections.abc import Collection

SETTING = "server.allowed_media_domains"
# Ten minutes of video in good quality; it goes through memory, here and in the container.
LARGEST_BYTES = 256 * 2**20
SECONDS = 60.0
_CHUNK = 2**16


def domain(url: str, allowed: Collection[str]) -> str:
    """Return the host of a URL that may be fetched; raises `Flaw`."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError as error:
        raise Flaw("media_invalid", f"The URL {url:.200} is not one: {error}.") from error
    if not host or parts.username is not None or not url.isprintable() or "\\" in url:
        raise Flaw("media_invalid", f"The URL {url:.200} names no host, or hides it.")
    if host not in {name.lower() for name in allowed}:
        raise Flaw(
            "media_not_allowed",
            f"Media of {host} are not allowed: add it to `{SETTING}`, or give a file.",
        )
    return host


def fetch(url: str, allowed: Collection[str], seconds: float = SECONDS) -> bytes:
    """Return what a URL holds, within this time in all; raises `Flaw`."""
    import httpx

    host = domain(url, allowed)
    deadline = time.monotonic() + seconds
    asked = httpx.URL(url)
    address = _address(host, asked.port or (443 if asked.scheme == "https" else 80))
    content = bytearray()
    try:
        with (
            # The system's certificates, and SSL_CERT_FILE.
            httpx.Client(
                verify=ssl.create_default_context(), trust_env=False, timeout=seconds
            ) as client,
            client.stream(
                "GET",
                asked.copy_with(host=address),
                headers={"Host": asked.netloc.decode("ascii")},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                moved = "; redirects are not followed" if response.has_redirect_location else ""
                raise Flaw("media_missing", f"{url}: HTTP {response.status_code}{moved}.")
            for chunk in response.iter_bytes(_CHUNK):
                content += chunk
                if len(content) > LARGEST_BYTES:
                    raise Flaw("media_too_large", f"{url}: more than {LARGEST_BYTES >> 20} MiB.")
                if time.monotonic() > deadline:
                    raise Flaw("media_missing", f"{url}: not fetched within {seconds:g} s.")
    except (httpx.HTTPError, OSError, ValueError) as error:
        words = str(error) or type(error).__name__
        raise Flaw("media_missing", f"{url} can't be fetched: {words}.") from error
    return bytes(content)


def _address(host: str, port: int) -> str:
    """Return an address of a host, all of whose addresses are public; raises `Flaw`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Flaw("media_missing", f"The host {host} can't be resolved: {error}.") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not _public(address):
            raise Flaw(
                "media_not_allowed",
                f"{host} is {address}, which is not a public address: nothing is fetched from "
                "there. Give a file.",
            )
    return addresses[0]


def _public(address: str) -> bool:
    try:
        it = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    mapped = getattr(it, "ipv4_mapped", None) or getattr(it, "sixtofour", None)
    return all(
        one.is_global and not one.is_multicast for one in (it, *([mapped] if mapped else []))
    )
