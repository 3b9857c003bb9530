"""What can go wrong when a model is adopted; each message is one line."""


class AdoptError(Exception):
    """The file, its description or its answers are not what a version can be made of."""
