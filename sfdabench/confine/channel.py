"""Lines of JSON between a parent and a confined process; nothing that arrives is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import IO, Any

SERVER = "SFDABENCH_SERVER"  # variable: the descriptor of the server that a worker was lent
LONGEST = 64 * 2**20  # bytes of one message; a child must not fill its parent's memory


class Closed(Exception):
    """The other end of the channel is gone."""


@dataclass
class Channel:
    """One end of a channel. incoming, outgoing: binary files, one message a line."""

    incoming: IO[bytes]
    outgoing: IO[bytes]

    def send(self, message: Any) -> None:
        """Write a message of JSON types. Raises Closed where nobody reads it any more."""
        try:
            self.outgoing.write(json.dumps(message).encode() + b"\n")
            self.outgoing.flush()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from error

    def receive(self) -> Any:
        """Wait for a message.

        Raises Closed at the end of the channel, and ValueError for a line that is no message.
        """
        try:
            line = self.incoming.readline(LONGEST)
        except ConnectionResetError as error:
            raise Closed(str(error)) from error
        if not line.endswith(b"\n"):
            if len(line) == LONGEST:
                raise ValueError(f"a message is longer than {LONGEST} bytes")
            raise Closed("the channel ended")
        return json.loads(line)

    def ask(self, message: Any) -> Any:
        """Send a message and wait for the reply."""
        self.send(message)
        return self.receive()

    def close(self) -> None:
        """Close both directions; what was not sent yet is lost."""
        for file in {id(file): file for file in (self.outgoing, self.incoming)}.values():
            try:
                file.close()
            except OSError:  # of the flush: nobody reads it any more
                continue
