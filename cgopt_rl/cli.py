"""The command line ``cgopt-rl``: each command is a dataclass, whose fields are its options.

The exit status is 0 when the command did what was asked, 2 when the request or a file is at fault, and 130 after
Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checks import unknown

DONE, REFUSED, INTERRUPTED = 0, 2, 130


class Refused(Exception):
    """What is wrong with a request, as a sentence for the user."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except (Refused, ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"cgopt-rl: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("cgopt-rl: stopped by Ctrl-C", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        return DONE


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return DONE if words else REFUSED
    if words[0] not in COMMANDS:
        raise Refused(unknown("command", words[0], COMMANDS))
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise Refused('the command line needs tyro: pip install "cgopt[rl]"') from error
    name, command = words[0], COMMANDS[words[0]]
    try:
        request: Any = tyro.cli(command, prog=f"cgopt-rl {name}", args=words[1:])
    except SystemExit as end:  # tyro has printed its help, or what is wrong
        return end.code if isinstance(end.code, int) else REFUSED
    return int(request.run())


def _usage() -> str:
    lines = ["usage: cgopt-rl COMMAND [options]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:<10} {(command.__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "cgopt-rl COMMAND --help tells a command's options."])


# --- cgopt-rl bandits -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bandits:
    """Play and draw the figures of Sutton and Barto, chapter 2."""

    figure: str = "all"
    """2.2 to 2.6 as in the book, nonstationary, regret, or all."""
    runs: int = 2000
    """Independent bandits for each curve."""
    seed: int = 0
    """The same seed gives the same numbers."""
    output: Path = Path(".")
    """Folder that the pictures are written to, as bandits-FIGURE.png."""
    plot: bool = True
    """Draw the pictures (needs matplotlib); otherwise only the tables are printed."""

    def run(self) -> int:
        """Play, print, draw."""
        from . import bandits

        if self.figure != "all" and self.figure not in bandits.FIGURES:
            raise Refused(unknown("figure", self.figure, ["all", *bandits.FIGURES]))
        if not self.output.is_dir():
            raise Refused(f"--output must be a folder that exists, and {str(self.output)!r} is none")
        for name in bandits.FIGURES if self.figure == "all" else [self.figure]:
            data = bandits.figure(name, runs=self.runs, seed=self.seed)
            print(data.table())
            if self.plot:
                path = self.output / f"bandits-{name}.png"
                bandits.draw(data, path)
                print(f"The picture is in {path}.")
            print()
        return DONE


COMMANDS: dict[str, type] = {"bandits": Bandits}
