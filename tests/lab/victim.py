"""A folder that others lead root's commands to, by links: whatever they do, it has to stay as it is."""

from __future__ import annotations

from pathlib import Path


def make_victim(where: Path) -> Path:
    """Make it in `where`, with something in it, and return it."""
    victim = where / "victim"
    (victim / "sub").mkdir(parents=True)
    (victim / "sub" / "shadow").touch()
    (victim / "passwd").touch()
    return victim


def whole(victim: Path) -> bool:
    """Whether all that was in it is, and nothing else."""
    return {str(path.relative_to(victim)) for path in victim.rglob("*")} == {"sub", "sub/shadow", "passwd"}
