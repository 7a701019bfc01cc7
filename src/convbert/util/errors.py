"""What a caller is told, whichever room notices it."""


class InputError(ValueError):
    """Something the caller gave cannot be used; the message names it and says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class SlowerWarning(UserWarning):
    """What the caller asked for runs, but the default would be faster on this machine."""


class DataWarning(UserWarning):
    """What was given can be used, but not all of it, or what comes out of it may mean little; the message says why."""
