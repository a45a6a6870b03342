"""The results as a table: a row for each figure, a column for each entrant, and the first entrant's ratio to the second."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Results, Sample


def median(samples: Sequence[Sample]) -> Sample:
    """The middle one of sorted samples."""
    return samples[len(samples) // 2]


def rows_of(results: Results) -> list[list[str]]:
    """Title, a cell for each entrant, and with two entrants the ratio of their figures."""
    rows: list[list[str]] = []
    for title, by_entrant in results.items():
        columns = list(by_entrant.values())
        for row in zip(*(median(samples).figures for samples in columns), strict=True):
            ratio = [f"{row[0].value / row[1].value:.2f}"] if len(row) == 2 and row[1].value else [""] * (len(row) == 2)
            rows.append([f"{title}: {row[0].name}", *(f"{_number(figure.value)} {figure.unit}" for figure in row), *ratio])
        for index, (check, _passed) in enumerate(columns[0][0].checks):
            passed = [f"{sum(sample.checks[index][1] for sample in samples)} of {len(samples)}" for samples in columns]
            rows.append([f"    {check} after it", *passed, *[""] * (len(columns) == 2)])
    return rows


def print_table(results: Results) -> None:
    """Print it, for a terminal or as plain text."""
    entrants = list(next(iter(results.values())))
    table = Table("riscv64, 1 vCPU, 256 MiB, Debian kernel; median samples")
    for name in [*entrants, *(["ratio"] if len(entrants) == 2 else [])]:
        table.add_column(name, justify="right")
    for row in rows_of(results):
        table.add_row(*row)
    Console().print(table)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
