"""A connector whose own assertion fails."""


def wrong() -> None:
    raise AssertionError("of a connector")
