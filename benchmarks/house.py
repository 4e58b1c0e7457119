"""Figures of the package's own code: names, comments, imports, start-up.

    python benchmarks/house.py

Prints one JSON line. The test suite holds what must not slip (`tests/test_house.py`); these figures show the trend.
"""

import ast
import collections
import io
import json
import statistics
import subprocess
import sys
import time
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_PROSE = ("type: ignore", "noqa", "fmt:")
"""Comments for tools, not for readers."""


def comments_of(text: str) -> int:
    """How many comments a module has for its readers."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(t.type == tokenize.COMMENT and not any(word in t.string for word in NOT_PROSE) for t in tokens)


def code_figures() -> dict[str, float]:
    """Names, lengths and comments of all modules of the package."""
    lines = comments = compact = 0
    classes: collections.Counter[str] = collections.Counter()
    functions: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    for path in sorted((ROOT / "xmrank").rglob("*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        lines += text.count("\n")
        comments += comments_of(text)
        classes.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))
        for node in ast.walk(tree):
            compact += isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp | ast.IfExp)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                functions.append(node)
    lengths = [int(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    one_word = sum("_" not in node.name.strip("_") for node in functions)
    return {
        "lines": lines,
        "classes_that_share_a_name": sum(count for count in classes.values() if count > 1),
        "one_word_function_names_percent": round(100 * one_word / len(functions), 1),
        "function_length_median": statistics.median(lengths),
        "functions_over_60_lines": sum(length > 60 for length in lengths),
        "comments_per_100_lines": round(100 * comments / lines, 2),
        "comprehensions_and_ternaries_per_100_lines": round(100 * compact / lines, 2),
    }


def files_imported_by_rank() -> int:
    """Modules of the package that `rank` needs."""
    code = "import sys, xmrank.rank.ranking; print(sum(name.split('.')[0] == 'xmrank' for name in sys.modules))"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def help_seconds() -> dict[str, float]:
    """How long the help of every job takes."""
    seconds = {}
    for job in sorted((ROOT / "jobs").glob("*.py")):
        started = time.perf_counter()
        subprocess.run([sys.executable, str(job), "--help"], capture_output=True, check=True)
        seconds[job.stem] = round(time.perf_counter() - started, 2)
    return seconds


if __name__ == "__main__":
    figures: dict[str, object] = {**code_figures(), "files_imported_by_rank": files_imported_by_rank()}
    figures["help_seconds"] = help_seconds()
    figures["readme_words"] = len((ROOT / "README.md").read_text().split())
    print(json.dumps(figures))
