"""Print the oldest releases that pyproject.toml allows, as constraints for pip: `python -m tests.minima`.

What is needed to run and to build is bounded below; what these libraries need themselves is their own affair, and the
tools of development are always the newest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements() -> tuple[Requirement, ...]:
    """Return what pyproject.toml asks for, to run and to build."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    return tuple(map(Requirement, (*project["project"]["dependencies"], *project["build-system"]["requires"])))


def oldest(requirement: Requirement) -> str:
    """Return the version that `>=` names; ValueError where there is none, or more than one."""
    (version,) = (clause.version for clause in requirement.specifier if clause.operator == ">=")
    return version


def constraints() -> Iterator[str]:
    """Yield a line of pip's constraints file for each requirement."""
    for requirement in requirements():
        yield f"{requirement.name}=={oldest(requirement)}"


if __name__ == "__main__":
    print("\n".join(constraints()))
