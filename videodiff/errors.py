"""The errors a user can do something about, each with the exit code of the command.

Every message says what was given, what is possible and what to do next. The command and the app show it without a
trace; any other exception is a bug of ours and keeps its trace (exit code 1).
"""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk is full."""


class UserError(Exception):
    """What was asked for cannot be done as asked (exit code 2)."""

    exit_code = 2


class UnreadableInput(UserError):
    """A file is empty, damaged beyond use, or not a video (exit code 3)."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is missing, incomplete or not one of ours (exit code 4)."""

    exit_code = 4


class LimitExceeded(UserError):
    """An input or a request goes over a limit; the message names the limit and the setting (exit code 5)."""

    exit_code = 5


class OutOfResources(UserError):
    """Memory, disk or device ran out (exit code 6)."""

    exit_code = 6


class MissingExtra(UserError):
    """An optional package is not installed; the message says which extra brings it (exit code 7)."""

    exit_code = 7


def refused(error: OSError) -> UserError:
    """The error to show where the system does not let a file be read or written: which one, and why."""
    if error.errno in DISK_FULL:
        return OutOfResources("the disk is full; free some space and try again")
    path = error.filename2 or error.filename or "a file"
    reason = error.strerror or error
    return UserError(f"{path} cannot be read or written: {reason}; see to its disk and its permissions, then try again")


def check_full(error: OSError) -> None:
    """OutOfResources where this error of the system is that of a full disk."""
    if error.errno in DISK_FULL:
        raise refused(error) from error
