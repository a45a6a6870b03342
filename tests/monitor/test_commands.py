"""The registry and the checking of arguments."""

from __future__ import annotations

import inspect

import pytest

from emu.monitor.command import Command, CommandError, Hmp, Kind, Parameter, bind
from emu.monitor.commands import COMMANDS, usage
from emu.monitor.hmp import BY_NAME
from emu.monitor.migration import parse_size

ALL = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
OF_HMP = [command for command in COMMANDS.values() if command.hmp]
TYPES = {Kind.STRING: "str", Kind.BOOL: "bool", Kind.INT: "int", Kind.ARRAY: "list[object]"}

URI, COUNT, FORCE = (
    Parameter("uri"),
    Parameter("a-count", Kind.INT, required=False),
    Parameter("force", Kind.BOOL, required=False),
)


def keyword_arguments(command: Command) -> list[inspect.Parameter]:
    parameters = inspect.signature(command.run).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


@ALL
def test_a_functions_arguments_are_those_declared(command: Command) -> None:
    declared = {} if command is COMMANDS["migrate-set-parameters"] else {p.argument: TYPES[p.kind] for p in command.parameters}
    assert {p.name: p.annotation.removesuffix(" | None") for p in keyword_arguments(command)} == declared


@ALL
def test_an_argument_has_a_default_just_when_it_may_be_missing(command: Command) -> None:
    required = {p.argument for p in command.parameters if p.required}
    assert {p.name for p in keyword_arguments(command) if p.default is inspect.Parameter.empty} == required


@pytest.mark.parametrize("command", OF_HMP, ids=usage)
def test_an_hmp_face_speaks_of_declared_parameters_and_helps_in_one_line(command: Command) -> None:
    hmp = command.hmp
    assert isinstance(hmp, Hmp)
    assert {*hmp.words, *hmp.flags.values()} <= {p.name for p in command.parameters}
    assert hmp.help.count("\n") == 0
    assert len(hmp.help) > 5


def test_no_two_hmp_commands_share_a_name() -> None:
    assert len(BY_NAME) == sum(1 + len(command.hmp.aliases) for command in OF_HMP)


def test_arguments_are_bound_by_their_python_names() -> None:
    assert bind((URI, COUNT), {"uri": "x", "a-count": 3}) == {"uri": "x", "a_count": 3}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "Parameter 'uri' is missing"),
        ({"uri": 1}, "Invalid parameter type for 'uri', expected: string"),
        ({"uri": None}, "Invalid parameter type for 'uri', expected: string"),
        ({"uri": "x", "a-count": "1"}, "Invalid parameter type for 'a-count', expected: integer"),
        ({"uri": "x", "a-count": True}, "Invalid parameter type for 'a-count', expected: integer"),
        ({"uri": "x", "a-count": 1.0}, "Invalid parameter type for 'a-count', expected: integer"),
        ({"uri": "x", "a-count": 1 << 64}, "Invalid parameter type for 'a-count', expected: integer"),
        ({"uri": "x", "force": 1}, "Invalid parameter type for 'force', expected: boolean"),
        ({"uri": "x", "a_count": 1}, "Parameter 'a_count' is unexpected"),
        ({"uri": "a\0b"}, "Parameter 'uri' holds a NUL or a lone surrogate, which no name or path can"),
        ({"uri": "\ud800"}, "Parameter 'uri' holds a NUL or a lone surrogate, which no name or path can"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_qemus_words(given: dict[str, object], text: str) -> None:
    with pytest.raises(CommandError) as refusal:
        bind((URI, COUNT, FORCE), given)
    assert str(refusal.value) == text


def test_a_nul_deep_inside_an_array_is_found() -> None:
    with pytest.raises(CommandError, match="NUL"):
        bind((Parameter("list", Kind.ARRAY),), {"list": [{"a": ["b\0"]}]})


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7 << 20), ("7B", 7), ("7k", 7 << 10), ("1.5G", 3 << 29), ("0", 0), ("0.000000001", 0), ("2T", 2 << 40)],
)
def test_a_size_counts_in_mib_unless_it_has_a_unit(text: str, size: int) -> None:
    assert parse_size(text, unit="M") == size


@pytest.mark.parametrize("text", ["", "1x", "-1", "1.G", ".5", "1 K", "1KB", "9" * 19, "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="Invalid size"):
        parse_size(text, unit="M")
