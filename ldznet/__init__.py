"""Masks from words, with the Stable Diffusion model that is already loaded.

`ldznet` reads what the UNet of a Stable Diffusion model knows of a picture and turns it into a
probability map per phrase (LD-ZNet, PNVR et al., ICCV 2023, https://arxiv.org/abs/2303.12343).
Importing this package loads nothing; the entry point is `ldznet.segmenter.Segmenter`.
"""

__version__ = "0.1.0"
