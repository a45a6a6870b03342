"""What people type for an address or a value: numbers, `$register`, + - * / % & | ^ ~ and parentheses, as in QEMU's monitor."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

from emu.monitor.command import CommandError

LONGEST = 200  # characters; nothing that a person types is longer, and the parser recurses
BITS = (1 << 64) - 1

BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
UNARY: dict[type[ast.unaryop], Callable[[int], int]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: operator.invert,
}

_REGISTER = re.compile(r"\$(\w+)")
_NAME = "register_"  # before a register's name in what Python parses


def evaluate(text: str, registers: Mapping[str, int]) -> int:
    """The value of an expression, modulo 2^64; CommandError when it has none. `registers` are as `info registers` has them."""
    if len(text) > LONGEST:
        raise CommandError(f"the expression has {len(text)} characters, at most {LONGEST} are read")
    names = {alias: value for name, value in registers.items() for alias in name.split("/")}
    try:
        tree = ast.parse(_REGISTER.sub(rf"{_NAME}\1", text.strip()), mode="eval")
        return _value(tree.body, names) & BITS
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise CommandError(f"{text!r:.60} is no expression of numbers, $registers and + - * / % & | ^ ~ ( )") from None
    except ZeroDivisionError:
        raise CommandError(f"{text!r:.60} divides by zero") from None


def _value(node: ast.expr, registers: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name) if name.startswith(_NAME):
            register = name.removeprefix(_NAME)
            if register not in registers:
                raise CommandError(f"there is no register '${register:.40}', 'info registers' lists them")
            return registers[register]
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand, registers))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left, registers), _value(right, registers)) & BITS
    raise ValueError
