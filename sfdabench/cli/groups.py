"""Groups of commands: one answers a mistyped name with the near ones, one imports late."""

from __future__ import annotations

import importlib
from typing import Any

import click

from sfdabench.core.near import unknown


class Group(click.Group):
    """A group whose unknown commands are answered with the near ones."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what is near before click says that it is unknown."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            raise click.UsageError(unknown("command", name, known))
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group that imports the module of a command when that command is asked for.

    lazy: command -> its place as "module:attribute", and the line that stands for it in the help.
    """

    def __init__(self, *args: Any, lazy: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in order."""
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and their lines, as click does, but import none of them."""
        limit = formatter.width - 6 - max(map(len, self.lazy))
        lines = {name: click.Command(name, help=line) for name, (_, line) in self.lazy.items()}
        rows = [(name, lines[name].get_short_help_str(limit)) for name in sorted(lines)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
