"""The one error of this room: a wish that cannot be granted here."""


class TuneError(Exception):
    """One line: where, what was expected, what was got, how to mend it."""
