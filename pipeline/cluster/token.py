"""Ray's token: whoever can read it can run programs in this Ray. Its owner alone may; Ray would let everybody."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from h2q.errors import UserError


def keep_token_private() -> None:
    """Make the token that Ray will look for, unless it is there or given in another way, and take it, and its folder,
    from everybody but their owner. Call before Ray starts.

    Raises: UserError where that cannot be done.
    """
    if "RAY_AUTH_TOKEN" in os.environ or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = Path(given) if given else Path.home() / ".ray" / "auth_token"
    try:
        if not given:
            token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            token.parent.chmod(0o700)
            if not token.exists():
                _make(token)
        if token.exists():
            token.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"Ray's token must be its owner's alone, but {error.filename or token} cannot be made so "
            f"({error.strerror}): set HOME to a folder of yours, or RAY_AUTH_TOKEN to a token"
        ) from error


def _make(token: Path) -> None:
    """A token that is there whole or not at all, and the same for all that start at the same moment."""
    handle, beside = tempfile.mkstemp(dir=token.parent)  # readable by its owner alone
    try:
        with open(handle, "w") as file:
            file.write(secrets.token_hex(32))  # as Ray's own
        with suppress(FileExistsError):
            os.link(beside, token)
    finally:
        os.unlink(beside)
