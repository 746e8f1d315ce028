"""Published rows, to print next to ours. They were measured by their authors, not by this program.

Source: PNVR et al., LD-ZNet, ICCV 2023, tables 1 and 2. In Table 1 the rows of MDETR to HulaNet follow
PhraseCut's own protocol, those of CLIPSeg to LD-ZNet CLIPSeg's, which is not strictly the same measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class PublishedRow(NamedTuple):
    """One published row, in percent; None where the paper has no number."""

    name: str
    miou: float | None
    fgiou: float | None
    ap: float | None


PHRASECUT = (
    PublishedRow("MDETR", 53.7, None, None),
    PublishedRow("GLIPv2-T", 59.4, None, None),
    PublishedRow("RMI", 21.1, 42.5, None),
    PublishedRow("Mask-RCNN Top", 39.4, 47.4, None),
    PublishedRow("HulaNet", 41.3, 50.8, None),
    PublishedRow("CLIPSeg (PC+)", 43.4, 54.7, 76.7),
    PublishedRow("CLIPSeg (PC, D=128)", 48.2, 56.5, 78.2),
    PublishedRow("RGBNet", 46.7, 56.2, 77.2),
    PublishedRow("ZNet", 51.3, 59.0, 78.7),
    PublishedRow("LD-ZNet", 52.7, 60.0, 78.9),
)
AIGI = (
    PublishedRow("MDETR", 53.4, None, 63.8),
    PublishedRow("CLIPSeg (PC+)", 56.4, None, 79.0),
    PublishedRow("SEEM", 57.4, None, 70.0),
    PublishedRow("RGBNet", 63.4, None, 84.1),
    PublishedRow("ZNet", 68.4, None, 85.0),
    PublishedRow("LD-ZNet", 74.1, None, 89.6),
)
TABLES: Mapping[str, tuple[PublishedRow, ...]] = {"phrasecut": PHRASECUT, "aigi": AIGI}
# Phrases that the published rows were measured on: PhraseCut's test split, and all captions of AIGI.
SAMPLES: Mapping[str, int] = {"phrasecut": 14_354, "aigi": 214}


def comparable_rows(dataset: str, samples: int) -> tuple[tuple[PublishedRow, ...], str]:
    """Return the published rows of a dataset, or a note where so few samples cannot be compared with them.

    A few missing or unreadable samples do not matter; a subset, or a small set in the same layout, does.
    """
    # 10 % leaves room for images that have disappeared since.
    if samples >= 0.9 * SAMPLES[dataset]:
        return TABLES[dataset], ""
    return (), (
        f"The published rows are left out: they were measured on {SAMPLES[dataset]:,} phrases, and this set has "
        f"{samples:,}."
    )
