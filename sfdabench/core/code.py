"""Placeholder until branch code lands."""

from __future__ import annotations


def entry_code(kind: str, name: str) -> str:
    """Revision."""
    return "r1"


def shared_code(*groups: str) -> dict[str, str]:
    """Revisions."""
    return {group: "r1" for group in groups}
