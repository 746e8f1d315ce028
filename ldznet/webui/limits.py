"""The limits of one request to our routes. Plain numbers, for server and client alike."""

from __future__ import annotations

# Pixels of an image or a mask: a square of 8192. Each map of such an image takes 256 MB, and
# making a mask holds several of them.
MOST_PIXELS = 2**26
# Letters of base64: a file of 48 MB, such as a photograph of 16 million pixels as PNG.
LONGEST_IMAGE = 64 * 2**20
# An image, a mask, which is far smaller as PNG, and the prompts.
LONGEST_BODY = 96 * 2**20
# Prompts and negative prompts together: the words of a common vocabulary of objects (COCO has 80).
MOST_PROMPTS = 100
# Letters of prompts given as one text with | between them.
LONGEST_TEXT = 20_000
# Prompts times timesteps times seeds, times sentences, times refined parts, with the noises and rivals of a
# method: each is a pass through the UNet, and others wait meanwhile.
MOST_PASSES = 1000
# The same for a small model, whose pass takes less than a tenth of the time.
MOST_SMALL_PASSES = 10_000
# Values in the JSON of a body: three lists of MOST_PASSES numbers, the prompts, and the other fields, rounded up.
MOST_VALUES = 10_000
# Commas, quotes and backslashes in a body with more commas than that: a hundred prompts of commas alone have
# 200,000, and an image of LONGEST_IMAGE in lines, or with its slashes escaped, a million.
MOST_SIGNS = 2_000_000
# Pixels of all images of prompts in an answer: eight of the largest, or a hundred of 2.6 million.
MOST_ANSWERED = 2**28
# Letters of any other text.
LONGEST_WORD = 500
