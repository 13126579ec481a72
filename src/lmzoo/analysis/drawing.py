"""How every figure of a report looks: colours, markers and lines of the arms, axes of costs, both files.

Colours are Okabe and Ito's (2008, "Color universal design"), which the colour-blind can tell apart; each has
a marker and a dash of its own, so that a print in grey can be read too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmzoo.analysis.curves import COSTS
from lmzoo.inference.sinks import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
_CJK = ("Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")
WIDTH = 7.4
"""Inches: the text of an A4 page."""
MOST_IN_LEGEND = 20
_LONGEST = 34
"""Characters of a name in a figure."""


@dataclass(frozen=True)
class Look:
    """How an arm is drawn."""

    colour: str
    marker: str
    dash: Any


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """One look an arm; the first 280 are all different."""
    return {
        arm: Look(_COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)], _DASHES[i % len(_DASHES)])
        for i, arm in enumerate(arms)
    }


def short(name: str, most: int = _LONGEST) -> str:
    """A name that fits beside an axis: of a long one the beginning and the end."""
    if len(name) <= most:
        return name
    half = (most - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


NOTHING_TO_DRAW_WITH = "no figures, as matplotlib is not installed: pip install 'lmzoo[report]'"


def possible() -> bool:
    """Whether there is something to draw with."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


@contextmanager
def style() -> Iterator[None]:
    """Sizes and fonts for the block; names are never read as formulas."""
    import matplotlib
    from matplotlib import font_manager

    fonts = set(font_manager.fontManager.get_font_names())
    settings: dict[Any, Any] = {
        "font.family": ["DejaVu Sans", *(name for name in _CJK if name in fonts)],
        "font.size": 8.5,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.labelsize": 8.5,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.88",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "text.parse_math": False,
        "svg.hashsalt": "lmzoo",
        "figure.constrained_layout.h_pad": 0.06,
        "figure.dpi": 200,  # of the PNG, which is to be printed too
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def new(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.svg and NAME.png; the same figure gives the same bytes.

    Raises:
        LmzooError: a file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with whole(folder / f"{name}.png") as beside, beside.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    figure.set_layout_engine("none")  # where things lie is known by now, and finding it is slow
    with whole(folder / f"{name}.svg") as beside, beside.open("w", encoding="utf-8") as file:
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None})


def legend(
    figure: Figure, arms: Sequence[str], of: dict[str, Look], extra: Sequence[Any] = (), *, lines: bool
) -> None:
    """What is which, above everything; of very many arms nothing, as they are listed in the tables."""
    from matplotlib.lines import Line2D

    handles: list[Any] = []
    if len(arms) <= MOST_IN_LEGEND:
        for arm in arms:
            look = of[arm]
            dash = look.dash if lines else ""
            handles.append(
                Line2D(
                    [],
                    [],
                    color=look.colour,
                    marker=look.marker,
                    linestyle=dash,
                    markersize=5,
                    label=short(arm),
                )
            )
    handles += extra
    if handles:
        widest = max(len(str(handle.get_label())) for handle in handles)
        columns = max(1, min(len(handles), int(figure.get_figwidth() / (0.65 + 0.068 * widest))))
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, handlelength=3.6)


def cost_axis(axes: Axes, values: Iterable[float | None], cost: str, *, what: str = "") -> None:
    """An axis of tokens, FLOPs or seconds: logarithmic where amounts differ threefold or more."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    known = [value for value in values if value is not None and value > 0]
    if known and max(known) >= 3 * min(known):
        axes.set_xscale("log")
        wide = max(known) > 30 * min(known)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 3.0, 5.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(known) / 1.25, max(known) * 1.25)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if known and max(known) < 1.05 * min(known):
            axes.set_xlim(min(known) * 0.9, max(known) * 1.1)
    axes.xaxis.set_major_formatter(FuncFormatter(_amount(cost)))
    axes.set_xlabel(f"{what}{COSTS[cost]}")


def _amount(cost: str) -> Callable[[float, int], str]:
    def told(value: float, place: int) -> str:
        if cost == "flops" and value:
            mantissa, exponent = f"{value:.2e}".split("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
            if abs(value) >= size and cost == "tokens":
                return f"{value / size:g} {unit}"
        return f"{value:,.0f}" if value == round(value) else f"{value:g}"

    return told
