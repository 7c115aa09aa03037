"""Errors that a user causes and can mend."""


class UserError(Exception):
    """Bad input: one line that names the file or option, what is wrong and what to do.

    The programs print it on standard error without a traceback and exit with status 2.
    """
