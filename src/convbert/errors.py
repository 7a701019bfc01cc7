"""The one exception that means "the input is wrong", whichever room notices it."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message names it and says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """
