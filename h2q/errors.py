"""The error that a user can mend, and what to show of any other."""


class UserError(ValueError):
    """A mistake that the user can mend. One line: the rule, the value found, what to do next. Jobs print it, exit 2."""


def require(rule_holds: bool, message: str) -> None:
    """Raise UserError(message) unless the rule holds."""
    if not rule_holds:
        raise UserError(message)


class Terminated(BaseException):
    """SIGTERM, where no run takes it as a wish to save and stop."""


def first_line(error: BaseException) -> str:
    """What the error says, in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
