"""`spanvla COMMAND ...`: finds the sub-command's module, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from spanvla_ros.contracts import SpanVLAError

ERROR = 2
INTERRUPTED = 130

EXAMPLES = """examples:
  spanvla demo --out out
  spanvla bag drive.mcap --camera front=/camera/image/compressed --odometry /odometry --out out
  spanvla COMMAND --help
"""

# top-level module -> extra of this package that installs it
EXTRA_OF_MODULE = {
    "jsonschema": "data",
    "libsumo": "sim",
    "matplotlib": "report",
    "moderngl": "sim",
    "onnx": "export",
    "onnxscript": "export",
    "peft": "train",
    "pycuda": "tensorrt",
    "rclpy": "ros",
    "rosbags": "bags",
    "safetensors": "train",
    "scipy": "score",
    "shapely": "sim",
    "sumo": "maps",
    "sumolib": "sim",
    "tensorboard": "train",
    "tensorrt": "tensorrt",
    "torch": "train",
    "transformers": "train",
}


def commands() -> dict[str, str]:
    """Sub-command -> one line about it, read from the modules beside this one without importing them."""
    folder = Path(__file__).parent
    found = {}
    for module in pkgutil.iter_modules([str(folder)]):
        if module.name != "main" and not module.name.startswith("_"):
            text = ast.get_docstring(ast.parse((folder / f"{module.name}.py").read_text(encoding="utf-8"))) or ""
            found[module.name] = text.split("\n")[0]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = commands()
    name = arguments[0] if arguments else ""
    try:
        if name not in known:
            return _overview(known, arguments)
        return _run(name, arguments)
    except SpanVLAError as error:
        _complain(str(error))
        return ERROR
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        extra = EXTRA_OF_MODULE.get(missing)
        if extra is None:
            raise
        _complain(f"`spanvla {name}` needs the Python package {missing}; install it with: pip install 'spanvla_ros[{extra}]'")
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output (head, less) is gone; the interpreter's own flush at exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"{__package__}.{name}")
    parser = argparse.ArgumentParser(prog="spanvla")
    module.add_parser(parser.add_subparsers(dest="command", required=True))
    return module.run(parser.parse_args(arguments)) or 0


def _overview(known: dict[str, str], arguments: list[str]) -> int:
    """Help, or the complaint about a command that doesn't exist."""
    lines = "\n".join(f"  {name:8} {text}" for name, text in known.items())
    parser = argparse.ArgumentParser(
        prog="spanvla",
        usage="spanvla COMMAND ...",
        description=f"commands:\n{lines}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    command = parser.parse_known_args(arguments)[0].command
    if command is None:
        parser.print_help()
        return ERROR
    _complain(f"unknown command '{command}'; there are: {', '.join(known)}")
    return ERROR


def _complain(message: str) -> None:
    print(f"spanvla: error: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
