"""What the code imports is what pyproject.toml and README.md say that it needs."""

import ast
import re
import sys
import tomllib

import pytest

from tests.helpers import ROOT

PACKAGES = ("trainables", "search_spaces", "orchestrator")
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
PARTS_OF_PYDANTIC = {"annotated_types", "pydantic_core"}
# imported where a user names a sampler of it, or trains low-rank changes
OPTIONAL = {"optunahub", "peft"}


def imported(package: str) -> set[str]:
    """Return the distributions that a package imports, anywhere in it."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
    top = {name.partition(".")[0] for name in found} - sys.stdlib_module_names
    return {
        DISTRIBUTIONS.get(name, name) for name in top - {*PACKAGES, *PARTS_OF_PYDANTIC, *OPTIONAL}
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_a_direct_dependency(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    direct = {re.split(r"[\[><=]", entry)[0] for entry in project["dependencies"]}
    assert imported(package) <= direct


def test_the_readme_lists_what_a_recipe_alone_needs() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    listed = re.search(r"The last line needs (.*?) alone, and for the bundled digits", readme)
    assert listed is not None
    rest = re.search(
        r"saved datasets need (\w+), tables of outcomes need (\w+), LoRA needs (\w+)\.", readme
    )
    assert rest is not None
    assert rest[3] in OPTIONAL
    needed = set(re.split(r", | and ", listed[1]))
    assert needed | {rest[1], rest[2]} == imported("trainables")
