"""Debian packages of any architecture through the machine's own apt, which is read (mirror, proxy, keys) but never changed.

apt runs with state, lists and sources of its own under a directory of the caller's. Every package is verified by Debian's keys.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from emu.errors import EmuError

APT_SECONDS = 600  # an index of 10 MB and a kernel package of 100 MB over a slow line
LOCAL_SECONDS = 120  # unpacking or formatting on a slow disk
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UNVERIFIED = re.compile(r"NO_PUBKEY|EXPKEYSIG|Missing key|not signed|could ?n[o']t be verified", re.IGNORECASE)


def run(command: Sequence[str], seconds: int, cwd: Path | None = None) -> str:
    """Run a program and return its output; EmuError holds the line in which it gave its reason."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as exc:
        raise EmuError(f"{command[0]} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise EmuError(f"{command[0]} gave no answer in {seconds} s") from exc
    if done.returncode:
        lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
        # apt states the cause before its summary, and verification failures only in a warning.
        reasons = (
            [line for line in lines if UNVERIFIED.search(line)] or [line for line in lines if line.startswith("E: ")] or lines
        )
        raise EmuError(f"{Path(command[0]).name}: {reasons[0].removeprefix('E: ').removeprefix('W: ').strip()}")
    return done.stdout


class Apt:
    """apt for one suite and architecture, with all its state under `work`."""

    def __init__(self, work: Path, arch: str, mirror: str, suite: str, keyring: Path | None) -> None:
        (work / "lists" / "partial").mkdir(parents=True)
        (work / "cache" / "archives" / "partial").mkdir(parents=True)
        signed_by = f" signed-by={keyring}" if keyring else ""
        sources = work / "sources.list"
        sources.write_text(f"deb [arch={arch} target=Packages lang=none{signed_by}] {mirror} {suite} main\n")
        self._options = [
            f"-oDir::Etc::SourceList={sources}",
            "-oDir::Etc::SourceParts=/dev/null",
            f"-oDir::State={work}",
            "-oDir::State::Status=/dev/null",
            f"-oDir::Cache={work / 'cache'}",
            f"-oAPT::Architecture={arch}",
            f"-oAPT::Architectures={arch}",
            "-oAPT::Update::Error-Mode=any",
            "-oAcquire::Retries=1",
        ]
        self._work = work

    def update(self) -> None:
        """Fetch the suite's index and check its signature."""
        run(["apt-get", *self._options, "-qq", "update"], APT_SECONDS)

    def kernel_package(self, metapackage: str) -> str:
        """The package of the newest kernel, which `metapackage` depends on."""
        text = run(["apt-cache", *self._options, "show", "--no-all-versions", metapackage], LOCAL_SECONDS)
        found = re.search(r"^Depends:.*?\b(linux-image-[0-9][\w.+~-]*)", text, re.MULTILINE)
        if found is None:
            raise EmuError(f"apt: {metapackage} depends on no linux-image package")
        return found[1]

    def unpack(self, *packages: str) -> Path:
        """Fetch packages, check them and return the directory that holds their files."""
        debs, root = self._work / "debs", self._work / "root"
        debs.mkdir()
        run(["apt-get", *self._options, "-qq", "download", *packages], APT_SECONDS, cwd=debs)
        for deb in sorted(debs.iterdir()):
            run(["dpkg-deb", "-x", str(deb), str(root)], LOCAL_SECONDS)
        return root


def open_suite(work: Path, arch: str, suite: str) -> Apt:
    """Return apt with `suite`'s index fetched from the machine's own Debian mirror.

    A machine older than the suite may lack its key: then the newest keyring is fetched from the machine's own suite, which the
    machine can verify, so that the chain of trust is never broken.
    """
    # The one form of the configuration that does not depend on whether indexes were fetched yet, nor on its two file formats.
    uris = run(["apt-get", "--print-uris", "update"], LOCAL_SECONDS)
    hosts = re.findall(r"^'(\S*debian\S*)/dists/(\w+)/InRelease'", uris, re.MULTILINE)
    if not hosts:
        raise EmuError("apt has no Debian package source on this machine")
    mirror, host_suite = hosts[0]
    keyring = DEBIAN_KEYRING if DEBIAN_KEYRING.exists() else None
    apt = Apt(work / suite, arch, mirror, suite, keyring)
    try:
        apt.update()
    except EmuError as exc:
        if not UNVERIFIED.search(str(exc)):
            raise
        host_arch = run(["dpkg", "--print-architecture"], LOCAL_SECONDS).strip()
        host = Apt(work / "host", host_arch, mirror, host_suite, keyring)
        host.update()
        newer = host.unpack("debian-archive-keyring") / DEBIAN_KEYRING.relative_to("/")
        apt = Apt(work / "verified", arch, mirror, suite, newer)
        apt.update()
    return apt
