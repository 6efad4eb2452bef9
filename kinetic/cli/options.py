"""Argument parsing whose faults are one line."""

import argparse
from typing import NoReturn

from kinetic.errors import KineticError


class Parser(argparse.ArgumentParser):
    """ArgumentParser that raises ValueError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise the fault; the caller tells it in one line."""
        raise KineticError(f"{message}; {self.prog} --help lists the options")
