"""`cellbasin doctor`: what this computer can do, and whether all is well."""

EXAMPLES = ""


def doctor() -> int:
    """Say what."""
    return 0
