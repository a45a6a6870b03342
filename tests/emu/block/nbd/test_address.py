"""The forms of an export's address that QEMU takes, and what is told of others."""

from __future__ import annotations

import pytest

from emu.block.nbd.address import Address, is_address, parse_address
from emu.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nbd:localhost:10810/disk", Address("disk", host="localhost", port=10810)),
        ("nbd:localhost:10810", Address("", host="localhost", port=10810)),
        ("nbd:[::1]:10810:exportname=a/b:c", Address("a/b:c", host="::1", port=10810)),
        ("nbd:unix:/run/a b.sock", Address("", socket="/run/a b.sock")),
        ("nbd:unix:here.sock:exportname=disk", Address("disk", socket="here.sock")),
        ("nbd://example.org/disk", Address("disk", host="example.org", port=10809)),
        ("nbd://example.org", Address("", host="example.org", port=10809)),
        ("nbd+tcp://[::1]:5/a%20b/c", Address("a b/c", host="::1", port=5)),
        ("nbd+unix:///disk?socket=/run/x%3Fy", Address("disk", socket="/run/x?y")),
        ("nbd+unix:///?socket=/run/x", Address("", socket="/run/x")),
    ],
)
def test_address_is_understood(text: str, address: Address) -> None:
    assert is_address(text)
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nbd:localhost", "the port is 'localhost'"),
        ("nbd:localhost:99999/x", "the port is '99999'"),
        ("nbd:localhost:\u0661/x", "the port is"),
        ("nbd:unix:", "the socket's path is missing"),
        ("nbd://", "a host is wanted"),
        ("nbd://h:99999/x", "is not nbd:HOST:PORT/NAME"),
        ("nbd://h/x?socket=/run/x", "nothing behind a"),
        ("nbd+unix:///x", "one socket=PATH"),
        ("nbd+unix://h/x?socket=/run/x", "no host"),
        ("nbds://h/x", "TLS is not supported"),
        ("nbd:unix:" + "x" * 108, "its socket's path has 108 bytes, at most 107 fit"),
        ("nbd://h/" + "x" * 4097, "its export's name has 4097 bytes, at most 4096 fit"),
    ],
)
def test_what_is_no_address_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["disk.img", "./nbd:x", "/nbd:/x", "nbd", "file:nbd:x", "nbdx:1"])
def test_other_paths_are_files(path: str) -> None:
    assert not is_address(path)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("nbd:unix:/run/nbd:exportname=disk", True),
        ("nbd://localhost/disk", True),
        ("nbd:127.0.0.1:10809/disk", True),
        ("nbd://[::1]/disk", True),
        ("nbd://example.com/disk", False),
        ("nbd:10.0.0.1:10809/disk", False),
    ],
)
def test_a_server_that_another_host_would_not_find_is_local(text: str, local: bool) -> None:
    assert parse_address(text).is_local == local
