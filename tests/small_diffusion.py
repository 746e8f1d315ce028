"""An embedded model that trains within seconds, for tests and for the processes that they start."""

from stand_in_art import stand_in_world

from ldznet.heads.unet import UNetConfig
from ldznet.research.embedded.model import TinyConfig

WORLD = stand_in_world()

TINY = TinyConfig(
    unet=UNetConfig(model_channels=32, channel_mult=(1, 1, 2, 2), heads=2, context_width=32),
    vae_widths=(32, 32, 32, 32),
    vae_blocks=0,
    text_layers=1,
    size=64,
    batch=2,
    text_batch=2,
    vae_crop=32,
    shard=6,
    window=2,
    encoder_scenes=2,
    decoder_scenes=2,
    warmup=2,
    encoder_warmup=2,
)


def say(_text):
    """Print nothing."""
