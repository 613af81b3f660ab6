"""The errors that are ours: a message says what is wrong, with which value, and what to do. Anything else is a fault, shown whole."""


class SelfImproveError(ValueError):
    """What the package refuses. The command line turns these into one line, and only these."""


class ArgumentError(SelfImproveError):
    """An argument or a setting has a value that cannot be used."""


class DataError(SelfImproveError):
    """The data cannot be used; the message says why and what to do."""
