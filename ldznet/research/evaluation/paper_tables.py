"""Published rows, to print beside ours. They were measured by their authors, not by this program.

Source: PNVR et al., LD-ZNet, ICCV 2023, tables 1 and 2. In Table 1 the rows of MDETR to HulaNet follow
PhraseCut's own protocol, those of CLIPSeg to LD-ZNet CLIPSeg's, which is not strictly the same measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One published row, percent; None where the paper has no number."""

    name: str
    miou: float | None
    fgiou: float | None
    ap: float | None


PHRASECUT = (
    Row("MDETR", 53.7, None, None),
    Row("GLIPv2-T", 59.4, None, None),
    Row("RMI", 21.1, 42.5, None),
    Row("Mask-RCNN Top", 39.4, 47.4, None),
    Row("HulaNet", 41.3, 50.8, None),
    Row("CLIPSeg (PC+)", 43.4, 54.7, 76.7),
    Row("CLIPSeg (PC, D=128)", 48.2, 56.5, 78.2),
    Row("RGBNet", 46.7, 56.2, 77.2),
    Row("ZNet", 51.3, 59.0, 78.7),
    Row("LD-ZNet", 52.7, 60.0, 78.9),
)
AIGI = (
    Row("MDETR", 53.4, None, 63.8),
    Row("CLIPSeg (PC+)", 56.4, None, 79.0),
    Row("SEEM", 57.4, None, 70.0),
    Row("RGBNet", 63.4, None, 84.1),
    Row("ZNet", 68.4, None, 85.0),
    Row("LD-ZNet", 74.1, None, 89.6),
)
TABLES: Mapping[str, tuple[Row, ...]] = {"phrasecut": PHRASECUT, "aigi": AIGI}
