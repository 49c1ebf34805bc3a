"""Limits of comparisons stand in the one table, `glance_fast.backends.tolerances`, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.sources import LIBRARY, label, sources

# The number of literal limits in a file, and why they are not of the table: none of them limits an error of rounding
# in a model's numbers.
ALLOWED = {
    "tests/bench/test_kernel_roofline.py": (1, "a column of figures that are printed with one digit"),
    "tests/bench/test_runtimes.py": (3, "published sizes of networks, and times that are written with one digit"),
    "tests/commands/test_benchmark.py": (1, "a mean rate of two images is near the median's"),
    "tests/data/test_resizing.py": (2, "half a pixel, of a product that ends in exactly a half"),
    "tests/models/test_backbone_local_net.py": (5, "statistics of random images and of a fitted projection"),
    "tests/models/test_whitening.py": (1, "the fit adds 1e-9 of the variance to the covariance"),
    "tests/postprocessing/test_calibration.py": (3, "a rate in 4,000 trials, and ranks of rates that are no fractions"),
    "tests/stains/test_stains.py": (1, "the area of a circle that is drawn in pixels"),
}
KEYWORDS = {"rel", "abs", "rtol", "atol"}
LARGEST_LIMIT = 1e-3


def literals(node: ast.AST) -> Iterator[float]:
    """Numbers other than zero that are written in an expression, those in subscripts and texts left out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value:
        yield node.value
    elif not isinstance(node, ast.Subscript):
        for part in ast.iter_child_nodes(node):
            yield from literals(part)


def is_relative(limit: ast.AST) -> bool:
    """Whether a limit is a factor times the largest value or the norm of something: a relative error, written out."""
    return isinstance(limit, ast.BinOp) and isinstance(limit.op, ast.Mult) and "max(" in ast.unparse(limit)


def literal_limits(tree: ast.AST) -> Iterator[str]:
    """Limits that are written as numbers: in an argument for a tolerance, a comparison, or a constant of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in KEYWORDS:
            limits = [*literals(node.value)]
        elif isinstance(node, ast.Compare) and any(isinstance(sign, ast.Lt | ast.LtE) for sign in node.ops):
            limits = [
                number
                for part in node.comparators
                for number in literals(part)
                if number <= LARGEST_LIMIT or (number < 1 and is_relative(part))
            ]
        elif isinstance(node, ast.Assign) and "TOLERANCE" in ast.unparse(node.targets[0]).upper():
            limits = [*literals(node.value)]
        else:
            continue
        if limits:
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("file", sources(*LIBRARY, "bench", "tests", "examples"), ids=label)
def test_limits_are_those_of_the_table(file: Path) -> None:
    actual = list(literal_limits(ast.parse(file.read_text(encoding="utf-8"))))
    count, _ = ALLOWED.get(label(file), (0, ""))
    assert len(actual) == count, actual


def test_every_exception_has_a_file_and_a_reason() -> None:
    files = {label(file) for file in sources("tests")}
    assert set(ALLOWED) <= files
    assert all(count and reason for count, reason in ALLOWED.values())


@pytest.mark.parametrize(
    "line",
    [
        "assert x == pytest.approx(y, rel=1e-5)",
        "np.testing.assert_allclose(x, y, atol=1e-6)",
        "assert abs(x - y).max() < 1e-6",
        "assert x <= y * (1 + 1e-5)",
        "assert error <= 1e-3 * y.max()",
        "TOLERANCE = 1e-4",
    ],
)
def test_a_literal_limit_is_detected(line: str) -> None:
    assert len(list(literal_limits(ast.parse(line)))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "assert x == pytest.approx(y)",
        "assert x == pytest.approx(y, rel=tolerance('output', 'fp32'))",
        "np.testing.assert_allclose(x, y, rtol=0, atol=0)",
        "assert error <= tolerance('output', 'fp32')",
        "assert low < 0.5",
        "assert largest > 1e-3",
    ],
)
def test_a_limit_of_the_table_is_accepted(line: str) -> None:
    assert list(literal_limits(ast.parse(line))) == []
