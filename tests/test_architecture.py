"""The house rules of DESIGN.md, held by reading the source: who may import whom, and how much."""

import ast
import functools
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "commands",
    "deploy",
    "export",
    "loadtest",
    "models",
    "report",
    "scoring",
    "service",
    "training",
)
# Code lines: without docstrings, comments and blank lines.
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 50
MAX_FOLDERS = 11
MAX_SERVICE_ENTRIES = 18

# Room -> the rooms of ours that it may import, itself aside. The longest prefix of a module's name
# is its room; a room named here stands for all below it. Arrows point down, never up.
OURS: dict[str, set[str]] = {
    "models": set(),
    "report": set(),
    "service.errors": set(),
    "service.inflight": set(),
    "service.lane": {"service.errors", "service.inflight"},
    "service.access": {"models", "service.errors", "service.lane", "service.settings"},
    "service.session": {"models", "service.errors"},
    # Of a session the pipeline knows values: what a run gives, and the plan that is shown of it.
    "service.pipeline": {
        "models",
        "service.errors",
        "service.inflight",
        "service.session.outputs",
        "service.session.plans",
    },
    "service.metrics": {"service.pipeline"},
    "service.rollout": {
        "models",
        "service.errors",
        "service.metrics",
        "service.pipeline",
        "service.session",
        "service.settings",
    },
    "service.record": {
        "models",
        "service.errors",
        "service.metrics",
        "service.pipeline",
        "service.settings",
    },
    "service.protocols": {
        "models",
        "service.access",
        "service.errors",
        "service.inflight",
        "service.lane",
        "service.metrics",
        "service.pipeline",
        "service.record",
        "service.rollout",
    },
    # An answer has an id before there is a lane.
    "service.workers": {"service.lane.request_ids"},
    "service.page": {"service.errors", "service.lane"},
    "service": {"models", "service"},
    "export": {"models", "report", "service.session"},
    "training": {"export", "models", "report"},
    "scoring": {
        "models",
        "report",
        "service.errors",
        "service.pipeline",
        "service.record",
        "service.session",
    },
    "loadtest": {"models", "report"},
    "loadtest.bench": {"loadtest", "models", "report", "scoring", "service"},
    "loadtest.tune": {"loadtest", "models", "report", "scoring", "service"},
    "deploy": set(),
    "commands": {"export", "loadtest", "models", "report", "scoring", "service", "training"},
    "foveal": {"commands"},
}
# Package -> the only third parties it may import; packages that are not named may import any.
ONLY = {"models": {"numpy", "cv2", "PIL", "simplejpeg", "pillow_heif"}}
# Module prefix -> third parties that it must not import.
WEB = {"bentoml", "_bentoml_sdk", "starlette", "uvicorn", "httptools"}
NEVER = {
    "service": {"torch", "onnx", "onnxscript", "pytorch_lightning", "sklearn", "torchmetrics"},
    "service.pipeline": WEB,
    "service.session": WEB,
    "service.record": WEB,
    "service.lane.exchange": WEB,
    "service.protocols": WEB,
    "scoring": WEB,
    "training": WEB,
    "export": WEB,
}


def room_of(module: str) -> str:
    """The longest prefix of a module's name that the arrows name."""
    return max((r for r in OURS if is_below(module, r)), key=len)


def is_below(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for path in [
        *sorted(p for d in PACKAGES for p in (ROOT / d).rglob("*.py")),
        ROOT / "foveal.py",
    ]
}


def tree_of(module: str) -> ast.Module:
    return parsed(SOURCES[module])


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def children(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements, handlers and cases right below a node: never an expression."""
    for field in ("body", "handlers", "cases", "orelse", "finalbody"):
        yield from getattr(node, field, ())


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and everything of ``children`` below it."""
    yield node
    for child in children(node):
        yield from statements(child)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    )


def imports(tree: ast.AST, *, at_run_time: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import; of those for type checkers only if asked."""
    for node in children(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: expected absolute imports"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in SOURCES else node.module), node.lineno
        elif not (at_run_time and is_type_checking(node)):
            yield from imports(node, at_run_time=at_run_time)


def forbidden_imports(module: str) -> Iterator[str]:
    """Yield the imports of a module that the arrows or the lists of third parties do not allow."""
    package, room = module.split(".", maxsplit=1)[0], room_of(module)
    for name, line in imports(tree_of(module)):
        top = name.split(".")[0]
        is_ours = top in PACKAGES or name == "foveal"
        if is_ours:
            is_allowed = room == room_of(name) or any(is_below(name, r) for r in OURS[room])
        else:
            is_only = package not in ONLY or top in sys.stdlib_module_names or top in ONLY[package]
            never = set().union(*(names for p, names in NEVER.items() if is_below(module, p)))
            is_allowed = is_only and top not in never
        if not is_allowed:
            yield f"{SOURCES[module].relative_to(ROOT)}:{line} imports {name}"


# Each rule is one test of all modules: thousands of tests would take longer to count than to run.
def test_imports_are_allowed() -> None:
    assert [where for module in SOURCES for where in forbidden_imports(module)] == []


def test_no_import_inside_a_function() -> None:
    # Commands import a package only when they run.
    assert [
        f"{SOURCES[module].relative_to(ROOT)}:{inner.lineno}"
        for module in SOURCES
        if not module.startswith("commands.")
        for node in statements(tree_of(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in statements(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    ] == []


def test_no_cycles() -> None:
    graph = {
        module: {name for name, _ in imports(tree_of(module), at_run_time=True) if name in SOURCES}
        for module in SOURCES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def docstring_lines(tree: ast.AST) -> set[int]:
    """The lines of all docstrings: a string that is the first statement of what it describes."""
    lines: set[int] = set()
    for node in statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if first is not None and ast.get_docstring(node, clean=False) is not None:
                lines.update(range(first.lineno, (first.end_lineno or 0) + 1))
    return lines


def code_lines(text: str, tree: ast.AST) -> set[int]:
    """The numbers of the lines that are neither blank, nor a comment, nor in a docstring."""
    lines = enumerate(text.splitlines(), 1)
    filled = {n for n, line in lines if line.strip() and not line.strip().startswith("#")}
    return filled - docstring_lines(tree)


def long_functions(text: str, tree: ast.AST, *, is_signature_free: bool = False) -> list[str]:
    """Functions over the budget, as ``name: lines``; nested ones count for the outer one, too."""
    lines = code_lines(text, tree)
    found = []
    for node in statements(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0].lineno if is_signature_free else node.lineno
            count = len(lines & set(range(first, (node.end_lineno or 0) + 1)))
            if count > MAX_FUNCTION_LINES:
                found.append(f"{node.name}: {count}")
    return found


def test_files_are_short() -> None:
    """Longer than ``MAX_FILE_LINES`` lines of code: to be split by subject."""
    counts = {
        str(path.relative_to(ROOT)): len(code_lines(path.read_text(), parsed(path)))
        for path in [*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py"))]
    }
    assert {path: count for path, count in counts.items() if count > MAX_FILE_LINES} == {}


def test_functions_are_short() -> None:
    # The signature of a command declares its options, one on a line: only its body counts.
    assert [
        f"{SOURCES[module].relative_to(ROOT)}: {found}"
        for module in SOURCES
        for found in long_functions(
            SOURCES[module].read_text(),
            tree_of(module),
            is_signature_free=module.startswith("commands."),
        )
    ] == []


def test_code_lines_are_counted_without_prose() -> None:
    body = "    x = 1\n" * 51
    text = f'"""Module."""\n\n\ndef f():\n    """One.\n\n    Two.\n    """\n    # why\n\n{body}'
    tree = ast.parse(text)
    assert len(code_lines(text, tree)) == 52
    assert long_functions(text, tree) == ["f: 52"]
    assert long_functions(text, tree, is_signature_free=True) == ["f: 51"]
    text = text.replace("    x = 1\n", "", 2)
    assert long_functions(text, ast.parse(text), is_signature_free=True) == []


def test_a_statement_is_seen_wherever_it_stands() -> None:
    text = """
        class A:
            def f():
                try:
                    with a: import a
                except B: import b
                else: import c
                finally:
                    for d in d: import d
                    else: import e
            async def g():
                match f:
                    case f:
                        while f: import f
        """
    tree = ast.parse(textwrap.dedent(text))
    assert [name for name, _ in imports(tree)] == list("abcdef")
    nested = {node.name for node in statements(tree) if isinstance(node, ast.AsyncFunctionDef)}
    assert nested == {"g"}


def test_modules_say_what_they_are_for() -> None:
    assert [module for module in SOURCES if not ast.get_docstring(tree_of(module))] == []


def test_names_say_what_is_in_them() -> None:
    nondescript = {"utils", "util", "common", "core", "helpers", "helper", "misc", "base"}
    assert [module for module in SOURCES if nondescript & set(module.split("."))] == []


def test_a_listing_shows_the_rooms() -> None:
    """Few enough entries that `ls` explains the top level and the service."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [Path(line) for line in listed.stdout.splitlines()]
    folders = {path.parts[0] for path in paths if len(path.parts) > 1}
    assert len({folder for folder in folders if not folder.startswith(".")}) <= MAX_FOLDERS
    service = {path.parts[1] for path in paths if path.parts[0] == "service"}
    assert len(service) <= MAX_SERVICE_ENTRIES
    assert {"lane", "protocols", "rollout", "pipeline", "session"} <= service


def test_no_line_is_packed_against_the_formatter() -> None:
    mark = "# fmt: " + "skip"
    packed = [
        path
        for path in [*(ROOT / "tests").rglob("*.py"), *SOURCES.values()]
        if mark in path.read_text()
    ]
    assert packed == []


def test_rules_see_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule over no files would hold for ever."""
    for rules, room, names in ((OURS, "service.session", set()), (NEVER, "models", {"PIL"})):
        with monkeypatch.context() as patch:
            patch.setitem(rules, room, names)
            module = "models.image" if room == "models" else "service.session.session"
            assert list(forbidden_imports(module)), room
    assert {"models.image", "service.app", "service.pipeline.batcher"} <= set(SOURCES)
    assert ("models.repository" in dict(imports(tree_of("service.app")))) is True
    assert "numpy" in dict(imports(tree_of("models.pixels")))
    late = ast.parse("if TYPE_CHECKING:\n    import a\ndef f():\n    import b\nimport c")
    assert [name for name, _ in imports(late)] == ["a", "b", "c"]
    assert [name for name, _ in imports(late, at_run_time=True)] == ["b", "c"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("service.app", ["torch", "onnx", "training", "pytorch_lightning", "sklearn", "pyarrow"]),
        ("models.repository", ["torch", "onnx", "onnxruntime", "service", "training", "bentoml"]),
        ("export.adopt", ["torch", "service", "training", "bentoml"]),
        ("models.image", ["onnxruntime", "service", "training", "bentoml"]),
        (
            "service.pipeline.classifier",
            ["bentoml", "starlette", "uvicorn", "torch", "training", "onnxruntime"],
        ),
        ("service.pipeline.job", ["onnxruntime", "service.session.session", "service.session.gpu"]),
    ],
)
def test_import_leaves_out(module: str, absent: list[str], tmp_path: Path) -> None:
    program = (
        f"import sys, {module}\n"
        f"found = [name for name in {absent!r} if name in sys.modules]\n"
        "sys.exit(f'imported: {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "BENTOML_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
