"""A disk that is kept as it is while its guest writes on: between the moment a snapshot shows and the one it is in the file.

Clusters that were allocated since then may be written in place and freed, as ever. All others stay: what is written to them
goes elsewhere, and what the disk gives up is freed afterwards. So nothing about the snapshot has to be in the file meanwhile,
whose flags and counts stay right; a process that ends leaves leaks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


class Frozen:
    """Which clusters of an image's file are new, and which of the others its disk has given up."""

    def __init__(self) -> None:
        self._new = np.zeros(0, np.bool_)  # by cluster of the file; those behind its end are not
        self.given_up: list[tuple[int, int]] = []  # runs: first, count

    def add(self, cluster: int, count: int) -> None:
        """Clusters that were free are allocated. That they were is for good: freed, they are free again."""
        if cluster + count > len(self._new):
            self._new = np.concatenate((self._new, np.zeros(2 * (cluster + count) - len(self._new), np.bool_)))
        self._new[cluster : cluster + count] = True

    def is_new(self, clusters: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the clusters were allocated since."""
        known = clusters < len(self._new)
        found = np.zeros(len(clusters), np.bool_)
        found[known] = self._new[clusters[known]]
        return found

    def split(self, cluster: int, count: int) -> tuple[bool, int]:
        """Whether `cluster` is new, and how many of the `count` from there on are like it."""
        flags = self.is_new(np.arange(cluster, cluster + count))
        first = bool(flags[0])
        alike = flags == first
        return first, count if alike.all() else int(alike.argmin())

    def keep(self, cluster: int, count: int) -> Iterator[tuple[int, int]]:
        """Give clusters up: runs of those that may be freed at once."""
        while count:
            new, part = self.split(cluster, count)
            if new:
                yield cluster, part
            else:
                self.given_up.append((cluster, part))
            cluster, count = cluster + part, count - part
