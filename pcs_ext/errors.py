"""Every error a user can cause: one class per cause, an exit code per kind, three parts in each message.

A message says what was expected, what came instead and what to do about it. The command line prints `str(error)`
without a traceback and exits with `error.exit_code`.
"""


class PcsError(Exception):
    """Base of all errors that are the user's to fix. `exit_code` is what the command line returns."""

    exit_code: int = 3


class UsageError(PcsError):
    """A flag, a name or a combination of settings that makes no sense (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A config file or preset with an unknown key, a wrong type or a value out of range."""


class InputError(PcsError):
    """A file or folder the user gave that cannot be used (exit code 3)."""


class PhotoError(InputError):
    """A photo, mask or caption that is missing, empty, corrupt or too small. The message names the file."""


class ModelError(InputError):
    """A base model that is missing or incomplete. The message says which file was looked for and how to get it."""


class ArtifactError(InputError):
    """A learned subject or adapter file that is missing, corrupt, foreign or made for another base."""


class CheckpointError(InputError):
    """A checkpoint folder that holds no valid checkpoint, or one made by a different configuration."""


class NoMatchingModulesError(UsageError):
    """An adapter whose target pattern matches no module of the backbone."""


class ResourceError(PcsError):
    """Not enough memory or disk, or a device that is not there (exit code 4)."""

    exit_code = 4


class DivergedError(ResourceError):
    """The loss or a gradient became NaN or infinite and stayed so."""


class Interrupted(PcsError):
    """Stopped by the user; what was done is saved and the message says how to resume (exit code 5)."""

    exit_code = 5
