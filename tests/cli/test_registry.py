"""The registry of running guests: names are unique, what a dead process left is removed, nobody else's folder is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from emu.cli.registry import MAX_SOCKET_PATH, Entry, Registry, RegistryError, open_registry
from emu.config import MachineConfig

CONFIG = MachineConfig(target="riscv64", memory=64 << 20)
NAMED = MachineConfig(target="riscv64", memory=64 << 20, name="box")

# Claims an entry, says so, and waits to be killed.
HOLDER = """
import sys
from pathlib import Path
from emu.cli.registry import Registry
from emu.config import MachineConfig
entry = Registry(Path(sys.argv[1])).claim(MachineConfig(target="riscv64", name="held"), "riscv64")
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "emu")


@pytest.fixture
def keep() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def claim(keep: ExitStack, registry: Registry, config: MachineConfig = CONFIG) -> Entry:
    entry = registry.claim(config, "riscv64")
    keep.callback(entry.close)
    return entry


def test_names_are_made_unique(registry: Registry, keep: ExitStack) -> None:
    entries = [claim(keep, registry) for _ in range(3)]
    assert [entry.name for entry in entries] == ["riscv64", "riscv64-2", "riscv64-3"]


def test_a_name_that_was_asked_for_and_is_taken_is_refused(registry: Registry, keep: ExitStack) -> None:
    claim(keep, registry, NAMED)

    with pytest.raises(RegistryError, match="a guest named 'box' is running already"):
        registry.claim(NAMED, "riscv64")


def test_a_running_guest_is_listed_with_what_it_is(registry: Registry, keep: ExitStack) -> None:
    entry = claim(keep, registry, NAMED)

    (guest,) = registry.running()

    assert guest.socket == entry.socket
    assert (guest.description.name, guest.description.target, guest.description.memory) == ("box", "riscv64", 64 << 20)
    assert (guest.description.pid, guest.description.uuid) == (os.getpid(), NAMED.uuid)


def test_a_closed_entry_is_gone_and_its_name_free(registry: Registry, keep: ExitStack) -> None:
    claim(keep, registry, NAMED).close()

    assert registry.running() == []
    assert claim(keep, registry, NAMED).name == "box"


def test_what_a_killed_process_left_is_removed(registry: Registry) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(registry.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        before = [guest.description.name for guest in registry.running()]
        holder.kill()

    after = registry.running()

    assert before == ["held"]
    assert after == []
    assert list(registry.root.iterdir()) == []


def test_waiting_for_a_guest_to_go_ends_when_its_process_does(registry: Registry, keep: ExitStack) -> None:
    entry = claim(keep, registry, NAMED)
    (guest,) = registry.running()

    stays = registry.wait_gone(guest, timeout=0)
    entry.close()
    goes = registry.wait_gone(guest, timeout=0)

    assert (stays, goes) == (False, True)


def test_an_unknown_name_is_answered_with_the_known_ones(registry: Registry, keep: ExitStack) -> None:
    claim(keep, registry, NAMED)

    with pytest.raises(RegistryError, match="no guest named 'bux' is running; running: box"):
        registry.find("bux")


def test_a_rename_takes_a_free_name_only(registry: Registry, keep: ExitStack) -> None:
    claim(keep, registry, NAMED)
    entry = claim(keep, registry)

    entry.rename("box")
    refused = entry.name
    entry.rename("other")

    assert refused == "riscv64"
    assert entry.name == "other"
    assert registry.find("other").socket == entry.socket


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}', json.dumps({"pid": 1})])
def test_a_description_that_cannot_be_read_is_not_listed(registry: Registry, keep: ExitStack, text: str) -> None:
    entry = claim(keep, registry)
    (entry.folder / "guest.json").write_text(text)

    assert registry.running() == []


def test_the_folder_belongs_to_its_user_alone(registry: Registry) -> None:
    assert registry.root.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emu").mkdir(mode=0o755)

    with pytest.raises(RegistryError, match=r"mode drwxr-xr-x, must be a directory of user \d+ alone"):
        Registry(tmp_path / "emu")


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    (tmp_path / "emu").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)

    with pytest.raises(RegistryError, match=f"has owner {owner} and mode"):
        Registry(tmp_path / "emu")


def test_a_link_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "emu").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RegistryError, match="mode lrwxrwxrwx"):
        Registry(tmp_path / "emu")


def test_a_parent_in_which_others_could_replace_it_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "open"
    parent.mkdir()
    parent.chmod(0o777)

    with pytest.raises(RegistryError, match="another user could put a folder of his own in its place"):
        Registry(parent / "emu")


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)

    with pytest.raises(RegistryError, match=f"at most {MAX_SOCKET_PATH} are possible"):
        Registry(deep / "emu").claim(CONFIG, "riscv64")


def test_the_registry_is_in_the_users_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert open_registry().root == tmp_path / "emu"
