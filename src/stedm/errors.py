"""Errors that a user can mend."""


class UserError(Exception):
    """One sentence for the user: the file or setting, the value found, and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
