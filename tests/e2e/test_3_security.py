"""The container's isolation, read from the engine and tried from inside."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import execute, inspect

if TYPE_CHECKING:
    from tests.e2e.conftest import Served


def test_the_engine_says_that_it_is_confined(served: Served) -> None:
    host = inspect("e2e")["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["ReadonlyRootfs"] is True
    assert host["NetworkMode"] == "bridge"
    assert host["Devices"] in (None, [])
    bindings = [port for ports in host["PortBindings"].values() for port in ports]
    assert [port["HostIp"] for port in bindings] == ["127.0.0.1"]
    writable = [m["Destination"] for m in inspect("e2e")["Mounts"] if m["RW"]]
    assert writable == ["/var/cache/appliance"]
    assert served.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("folder", ["/", "/usr/bin", "/etc", "/root", "/opt", "/models/tiny-omni"])
def test_nothing_is_written_outside_tmpfs_and_caches(served: Served, folder: str) -> None:
    del served
    done = execute("e2e", "touch", f"{folder}/intruder")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("folder", ["/tmp", "/var/cache/appliance", "/dev/shm"])
def test_tmpfs_and_caches_are_writable(served: Served, folder: str) -> None:
    del served
    assert execute("e2e", "touch", f"{folder}/note").returncode == 0


def test_the_engines_processes_have_no_capabilities_and_gain_none(served: Served) -> None:
    del served
    done = execute("e2e", "sh", "-c", "cat /proc/[0-9]*/status")
    lines = [line.split() for line in done.stdout.splitlines()]
    for wanted, name in (("0000000000000000", "CapEff:"), ("1", "NoNewPrivs:")):
        values = {words[1] for words in lines if words and words[0] == name}
        assert values == {wanted}, name


def test_the_api_is_not_on_the_hosts_other_addresses(served: Served) -> None:
    port = int(served.url.rpartition(":")[2])
    # The engine's own bridge: an address of this host that is not loopback.
    gateway = inspect("e2e")["NetworkSettings"]["Gateway"]
    with socket.socket() as client:
        client.settimeout(5)
        assert client.connect_ex((gateway, port)) != 0
