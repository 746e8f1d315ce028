"""The errors that a user can cause.

The text of each error can be shown to a user: what happened, why as far as we know, what to do.
`assert` is for our own mistakes.
"""


class LdznetError(Exception):
    """The parent of every error that a user can cause; its text says what to do."""


class OptionError(LdznetError):
    """An option has a wrong type or lies outside its range."""


class PromptError(LdznetError):
    """A prompt cannot be used."""


class ImageError(LdznetError):
    """An image cannot be read or used."""


class ShapeError(LdznetError):
    """A tensor does not have the shape that the network needs."""


class FeatureError(LdznetError):
    """The UNet of the host did not give the features that a head reads."""


class CheckpointError(LdznetError):
    """A weight file is damaged, unsafe, or of another kind than it should be."""


class NoHeadError(CheckpointError):
    """A weight file can be read, but is not a head file."""


class DownloadError(LdznetError):
    """A file cannot be fetched from the web, or has another content than it should."""


class HeadError(LdznetError):
    """A head does not fit the loaded Stable Diffusion model."""


class HostError(LdznetError):
    """The Stable Diffusion model cannot be loaded or used."""


class LaunchError(LdznetError):
    """The processes of one launch cannot reach each other."""


class OutOfMemoryError(LdznetError):
    """Even the smallest piece of work does not fit into memory."""
