"""How figures look and how they are saved: one theme, and the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

INK, MUTED, RULE, PAPER = "#1c1c21", "#66666f", "#dcdce0", "#ffffff"
# What each colour becomes in a dark page. Whole words of the drawing's CSS: no arm has one of these colours.
_DARK = {INK: "#ececf0", MUTED: "#a2a2ad", RULE: "#3a3a42", PAPER: "#1d1e22"}

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.facecolor": PAPER,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "figure.dpi": 100,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "image.composite_image": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "stedm",
    "savefig.facecolor": PAPER,
}


def theme() -> dict:
    """Return the matplotlib settings of every figure, for `matplotlib.rc_context`."""
    return {**sns.axes_style("ticks"), **RC}


def save(figure: Figure, folder: Path, name: str, *, photographs: bool = False) -> bytes:
    """Write `<name>.pdf` and `<name>.png` (200 dpi) into `folder` and return the figure as an SVG for the report.

    No file holds a date, so equal figures are equal bytes. The SVG follows the reader's light or dark scheme; with
    `photographs` its pictures are JPEG and its lines good to a tenth of a point, which takes a tenth of the room.
    """
    with matplotlib.rc_context(theme()):
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None, "ModDate": None}, bbox_inches="tight")
        buffer = io.BytesIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", dpi=150, metadata=empty, bbox_inches="tight")
        # Viewers smooth a small picture in a PDF or SVG; in the PNG it would stand as blocks.
        for image in figure.findobj(AxesImage):
            image.set_interpolation("bilinear")
        figure.savefig(folder / f"{name}.png", dpi=200, metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)
    svg = buffer.getvalue().decode()
    return _two_schemes(_lossy(svg) if photographs else svg).encode()


def _lossy(svg: str) -> str:
    def encoded(found: re.Match[str]) -> str:
        packed = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as picture:
            picture.convert("RGB").save(packed, "JPEG", quality=85)
        return data_uri(packed.getvalue(), "image/jpeg")

    svg = re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", encoded, svg)
    return re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)


def _two_schemes(svg: str) -> str:
    names = {colour: f"--c{place}" for place, colour in enumerate(_DARK)}
    for colour, name in names.items():
        svg = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({name})", svg)
    light = "".join(f"{name}:{colour};" for colour, name in names.items())
    dark = "".join(f"{names[colour]}:{other};" for colour, other in _DARK.items())
    rules = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    svg = re.sub(r"(<svg[^>]*>)", lambda found: found[1] + rules, svg, count=1)
    return svg[svg.index("<svg") :]


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes as a data URI, e.g. of kind "image/png", so that a page needs no file beside it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
