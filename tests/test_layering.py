"""The floors of the package: imports go down or sideways on the same floor, never up."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dinojax

PACKAGE = Path(dinojax.__file__).parent
FLOORS = (
    {"typing", "trees", "mesh", "precision", "schedules", "prng"},
    {"kernels", "losses", "views", "optim"},
    {"models"},
    {"data"},
    {"ssl"},
    {"runtime"},
    {"backbones", "embedding", "evaluation", "curation", "export", "api"},
)
APPS = len(FLOORS)
"""The floor of all else: top-level modules, the package itself, and rooms of apps as `tasks`."""
MAX_LINES = 400

FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize(
    "path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES]
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next((i for i, rooms in enumerate(FLOORS) if name in rooms), APPS)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, also inside functions; absolute imports only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_file
def test_imports(path):
    here = floor(room(path))
    for name in imports(ast.parse(path.read_text())):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top == "dinojax" and target not in ("", "__version__"):  # the version is anyone's
            assert floor(target) <= here, f"floor {here} imports {name} of floor {floor(target)}"
        assert top != "flax" or room(path) == "models", f"{name} outside of models/"
        assert top != "ml_collections" or here == APPS, f"{name} below the apps"
        on_device = name.startswith("jax.numpy") or name == "jax.jit"
        assert not on_device or room(path) != "data", f"{name} in data/, which is host only"


@each_file
def test_size_and_name(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{lines} lines; split at {MAX_LINES}"
    assert path.stem != "utils", "name the file after what it holds"


def float32_casts(tree: ast.AST) -> Iterator[int]:
    """Lines with ``x.astype(jnp.float32)``, its string form, or ``jnp.float32(x)``."""
    cast = re.compile(r"(.*\.astype\((dtype=)?(jnp\.float32|'float32')|jnp\.float32\().*", re.S)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and cast.match(ast.unparse(node)):
            yield node.lineno


@each_file
def test_only_precision_names_float32(path):
    if path.name != "precision.py":
        lines = list(float32_casts(ast.parse(path.read_text())))
        assert not lines, f"float32 casts in lines {lines}; use precision.widen"


def test_the_checks_see_what_they_forbid():
    source = "from dinojax import train\nx.astype(jnp.float32)\njnp.float32(x)\nx.astype('float32')"
    tree = ast.parse(source)
    assert list(imports(tree)) == ["dinojax.train"]
    assert (
        floor("tasks")
        == floor("train")
        == APPS
        > floor("ssl")
        > floor("models")
        > floor("trees")
        == 0
    )
    assert list(float32_casts(tree)) == [2, 3, 4]
