"""Runs the command line inside the test's process."""

import pytest

from pcs_ext.cli import main


def run(*arguments: object, capture: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `pcs-ext ARGUMENTS`."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    output = capture.readouterr()
    return code, output.out, output.err
