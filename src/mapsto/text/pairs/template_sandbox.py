"""Render the templates of published models, which anyone may have written, within limits of time, size and access.

Jinja's immutable sandbox keeps a template from Python's internals and from changing what it is given; it limits neither time nor
memory. Here no value may be larger than MAX_SIZE: whatever makes a larger one from smaller ones (operators, filters, methods,
literals, captured output) is checked, beforehand where the result could be far larger. The clock is read at each of these, at
each call and at each turn of a loop, and between two readings the work is in proportion to MAX_SIZE.
Not defined are the time of day, so that a prompt is a function of its dialogue, and other files (`include`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce, wraps
from typing import Any, cast

from jinja2 import TemplateError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# Seconds that a template may take, for its compilation and for each rendering.
MAX_SECONDS = 1.0
# Characters of a template.
MAX_TEMPLATE = 1 << 17
# Characters of a text and numbers of items of a list, with what the items hold.
MAX_SIZE = 1 << 22
# Bits of a whole number.
MAX_BITS = 1 << 10
# The largest product of the sizes of a text and of a method's or filter's arguments, such as a width.
MAX_PRODUCT = 1 << 26

# fmt: off
TEXT_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "index", "isalpha", "isdigit", "islower", "isspace", "isupper", "join", "lower",
    "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rpartition", "rsplit", "rstrip", "split",
    "splitlines", "startswith", "strip", "title", "upper",
))
FILTERS = (
    "abs", "attr", "batch", "capitalize", "count", "d", "default", "dictsort", "escape", "e", "first", "float", "forceescape",
    "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string", "sum", "title", "trim", "unique",
    "upper",
)
# fmt: on


class LimitError(TemplateError):
    """The error for a template that takes too much time or makes too large a value."""


class _Generation(Extension):
    """The block `generation`, by which some templates mark the assistant's turns for training: its content, unchanged."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Checks(NodeTransformer):
    """Add checks to a parsed template: to loops, literals of lists, and texts that are joined by `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_timed")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        first, *others = [_filter(part, "string") for part in node.nodes]
        return reduce(nodes.Add, others, first)

    def _checked(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        # A tuple may also be a target of an assignment.
        return node if getattr(node, "ctx", "load") == "store" else _filter(node, "_checked")

    visit_List = visit_Tuple = visit_Dict = _checked  # noqa: N815


def _filter(node: nodes.Node, name: str) -> nodes.Expr:
    """Return the node of an expression behind a filter without arguments."""
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of templates, with the limits of this module."""

    intercepted_binops = frozenset(["+", "*", "**", "%", "//", "/", "-"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, loopcontrols],
            finalize=self._checked, cache_size=0,
        )  # fmt: skip
        self.deadline = math.inf
        self.filters = {name: self._limited(self.filters[name]) for name in FILTERS}
        self.filters |= {"tojson": self._limited(_to_json), "_timed": self._timed, "_checked": self._checked}
        names = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals = {**names, "raise_exception": _refuse}
        self.concat = self._join  # type: ignore[method-assign]

    def compiled(self, source: str) -> Callable[[Mapping[str, Any]], str]:
        """Return the function that renders a template with variables. Raises TemplateError for one that cannot be used.

        Also the function raises it, and what else goes wrong in a template, such as RecursionError.
        """
        if len(source) > MAX_TEMPLATE:
            raise LimitError(f"it has {len(source):,} characters; at most {MAX_TEMPLATE:,} are read")
        self.deadline = time.monotonic() + MAX_SECONDS
        code = self.compile(_Checks().visit(self.parse(source)))
        template = self.template_class.from_code(self, code, dict(self.globals))

        def render(variables: Mapping[str, Any]) -> str:
            self.deadline = time.monotonic() + MAX_SECONDS
            return self._join(template.generate(**variables))

        return render

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return super().is_safe_attribute(obj, attr, value) and (not isinstance(obj, str) or attr in TEXT_METHODS)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        # The width of a format may be any number, so that the method is not for templates.
        return None

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._check_time()
        are_numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "+" or (operator == "*" and not are_numbers):
            sizes = (_size(left), _size(right))
            self._check_size(sum(sizes) if operator == "+" else math.prod(_factor(value) for value in (left, right)))
        elif operator == "**" or not are_numbers:
            raise LimitError(f"the operator {operator} is not for these values in a chat template")
        return self._checked(super().call_binop(context, operator, left, right))

    def call(self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            self._check_product((owner, *args, *kwargs.values()))
        self._check_time()
        return self._checked(super().call(__context, __obj, *args, **kwargs))

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter that checks its arguments before, and its result after."""

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            # Some filters are given the environment or the context first.
            self._check_product([value for value in (*args, *kwargs.values()) if _is_value(value)])
            return self._checked(function(*args, **kwargs))

        return limited

    def _timed(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield values, and look at the clock before each."""
        for value in values:
            self._check_time()
            yield value

    def _checked(self, value: Any) -> Any:
        """Return a value that is not too large. A lazy sequence becomes a list, whose size is known."""
        if isinstance(value, Iterator):
            value = list(self._limit_items(value))
        self._check_time()
        self._check_size(_size(value))
        return value

    def _limit_items(self, values: Iterator[Any]) -> Iterator[Any]:
        for number, value in enumerate(self._timed(values)):
            self._check_size(number)
            yield value

    def _join(self, parts: Iterable[str]) -> str:
        """Return parts of an output as one text."""
        texts, size = [], 0
        for part in self._timed(parts):
            size += len(part)
            self._check_size(size)
            texts.append(part)
        return "".join(texts)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise LimitError(f"it takes more than {MAX_SECONDS:g} s")

    def _check_size(self, size: int) -> None:
        if size > MAX_SIZE:
            raise LimitError(f"it makes a value of more than {MAX_SIZE:,} characters or items")

    def _check_product(self, values: Iterable[Any]) -> None:
        self._check_time()
        if math.prod(map(_factor, values)) > MAX_PRODUCT:
            raise LimitError("it makes too large a value")


def _is_value(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | tuple | dict | range | Iterator | Undefined)


def _factor(value: Any) -> int:
    """Return by how much an argument can multiply the size of a result: a number by its value, others by their size."""
    if isinstance(value, float):
        return max(1, math.ceil(abs(value))) if math.isfinite(value) else 1
    return max(1, abs(value) if isinstance(value, int) else _size(value))


def _size(value: Any) -> int:
    """Return the number of characters and items in a value, up to a little more than MAX_SIZE."""
    size, remaining = 0, [value]
    while remaining and size <= MAX_SIZE:
        item = remaining.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, Mapping):
            size += len(item)
            remaining += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | range):
            size += len(item)
            remaining += [] if isinstance(item, range) else item
        elif isinstance(item, int) and item.bit_length() > MAX_BITS:
            size = MAX_SIZE + 1
    return size


def _to_json(value: Any, indent: int | None = None, ensure_ascii: bool = False) -> str:
    """Return a value as JSON, in which characters such as < are not escaped, unlike by jinja2's filter for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: Any) -> None:
    """Raise the error with which a template refuses a dialogue."""
    raise TemplateError(str(message))
