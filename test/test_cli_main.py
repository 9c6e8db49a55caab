import argparse
import importlib
import sys

import pytest

from spanvla_ros.cli import main as shell
from spanvla_ros.contracts import InputError


class Command:
    """A sub-command module that does what a test wants."""

    def __init__(self, action):
        self.action = action

    def add_parser(self, subparsers):
        subparsers.add_parser("probe")

    def run(self, args):
        return self.action()


@pytest.fixture
def probe(monkeypatch):
    def install(action):
        monkeypatch.setitem(sys.modules, "spanvla_ros.cli.probe", Command(action))
        monkeypatch.setattr(shell, "commands", lambda: {"probe": "does what a test wants"})

    return install


def fail(error):
    def action():
        raise error

    return action


def test_errors_become_one_line_and_exit_code_2(probe, capsys):
    probe(fail(InputError("the bag is\n  empty")))
    assert shell.main(["probe"]) == 2
    assert capsys.readouterr().err == "spanvla: error: the bag is empty\n"


def test_a_missing_package_names_the_extra_that_brings_it(probe, capsys):
    probe(fail(ModuleNotFoundError("No module named 'rosbags'", name="rosbags.highlevel")))
    assert shell.main(["probe"]) == 2
    assert "spanvla_ros[bags]" in capsys.readouterr().err


def test_a_bug_is_not_dressed_up_as_a_missing_extra(probe):
    probe(fail(ModuleNotFoundError("No module named 'spanvla_ros.nonsense'", name="spanvla_ros.nonsense")))
    with pytest.raises(ModuleNotFoundError):
        shell.main(["probe"])


def test_interruption_is_130(probe):
    probe(fail(KeyboardInterrupt()))
    assert shell.main(["probe"]) == 130


def test_exit_code_of_the_command_is_passed_on(probe):
    probe(lambda: 3)
    assert shell.main(["probe"]) == 3


def test_an_unknown_command_lists_the_known_ones(capsys):
    assert shell.main(["drive"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanvla: error: unknown command 'drive'") and "bag" in error and error.count("\n") == 1


def test_no_command_shows_help_and_fails(capsys):
    assert shell.main([]) == 2
    assert "spanvla bag" in capsys.readouterr().out


def leaves(parser):
    """The parsers of a command that take the user's own arguments."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [leaf for action in nested for choice in action.choices.values() for leaf in leaves(choice)] or [parser]


@pytest.mark.parametrize("name", sorted(shell.commands()))
def test_every_command_helps_with_an_example(name):
    subparsers = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"spanvla_ros.cli.{name}").add_parser(subparsers)
    for leaf in leaves(subparsers.choices[name]):
        assert "example" in leaf.format_help(), f"{leaf.prog} --help has no example"


def test_help_is_exit_code_0(capsys):
    with pytest.raises(SystemExit) as stop:
        shell.main(["bag", "--help"])
    assert stop.value.code == 0 and "overlay.mp4" in capsys.readouterr().out


def test_every_command_says_what_it_does():
    assert all(text.endswith(".") for text in shell.commands().values())
