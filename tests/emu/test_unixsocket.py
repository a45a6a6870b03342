"""A unix socket's name: for its user alone, and never there without somebody who listens."""

from __future__ import annotations

import socket
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from emu.unixsocket import UnixListener

AtListen = Callable[[Callable[[], None]], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def at_listen(monkeypatch: pytest.MonkeyPatch) -> AtListen:
    """Has something happen at the moment before a socket listens."""
    listen = socket.socket.listen

    def arrange(happens: Callable[[], None]) -> None:
        def after_it(self: socket.socket) -> None:
            happens()
            listen(self)

        monkeypatch.setattr(socket.socket, "listen", after_it)

    return arrange


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def neighbours(path: Path) -> list[str]:
    """What is in the socket's folder, itself included."""
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_name_is_there_only_once_somebody_listens(path: Path, at_listen: AtListen) -> None:
    there: list[bool] = []
    at_listen(lambda: there.append(path.exists()))

    with closing(UnixListener(path)):
        assert there == [False]
        assert connects(path)


def test_a_socket_is_for_its_user_alone(path: Path) -> None:
    with closing(UnixListener(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_left(path: Path) -> None:
    listener = UnixListener(path)
    beside = neighbours(path)

    listener.close()
    listener.close()

    assert beside == ["s"]
    assert neighbours(path) == []


def test_a_name_that_nobody_listens_at_is_taken_over(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))

    with closing(UnixListener(path)):
        assert connects(path)


def test_a_name_in_use_is_left_alone(path: Path) -> None:
    with closing(UnixListener(path)):
        with pytest.raises(OSError, match="Address already in use"):
            UnixListener(path)

        assert connects(path)
        assert neighbours(path) == ["s"]


def test_a_name_is_in_use_by_whoever_takes_no_more_clients(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))

        with pytest.raises(OSError, match="Address already in use"):
            UnixListener(path)


def test_a_file_in_the_names_place_is_left_alone(path: Path) -> None:
    path.write_text("precious")

    with pytest.raises(OSError, match="Address already in use"):
        UnixListener(path)

    assert path.read_text() == "precious"
    assert neighbours(path) == ["s"]


def test_a_file_that_comes_into_the_names_place_at_the_last_moment_is_left_alone(path: Path, at_listen: AtListen) -> None:
    at_listen(path.touch)

    with pytest.raises(OSError, match="Address already in use"):
        UnixListener(path)

    assert path.is_file()
    assert neighbours(path) == ["s"]


def test_a_name_that_has_become_anothers_stays(path: Path) -> None:
    listener = UnixListener(path)
    path.unlink()

    with closing(UnixListener(path)):
        listener.close()
        assert connects(path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"):
        UnixListener(tmp_path / "none" / "s")
