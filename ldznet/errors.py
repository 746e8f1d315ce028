"""What can go wrong by no fault of ours.

The text of each error is fit to be shown to a user: what happened, why as far as we know, what to do.
`assert` is for our own mistakes; everything a user can cause is one of these.
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
    """The host's UNet did not give the features that a head reads."""


class CheckpointError(LdznetError):
    """A file of weights is damaged, unsafe, or not what it should be."""


class NoHeadError(CheckpointError):
    """A file of weights can be read, but is not that of a head."""


class DownloadError(LdznetError):
    """A file cannot be fetched from the web, or is not the one that was asked for."""


class HeadError(LdznetError):
    """A head does not fit the loaded Stable Diffusion model."""


class HostError(LdznetError):
    """The Stable Diffusion model cannot be loaded or used."""


class LaunchError(LdznetError):
    """Processes of one launch do not come together."""


class OutOfMemoryError(LdznetError):
    """Even the smallest piece of work does not fit into memory."""
