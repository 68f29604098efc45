"""Errors that a user can mend."""


class UserError(Exception):
    """One sentence for the user: the file or setting, the value found, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(Exception):
    """A training that was asked to stop has kept its state; exit code 75, "temporary failure"."""


class MadeMeanwhile(Exception):
    """Another process has made the same product while this one waited for it; nothing is left to do."""
