"""Make a new clip from nothing."""

from fractions import Fraction

from videodiff.events import Note
from videodiff.planner import Timeline
from videodiff.settings import Generate
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape


def lay_out(settings: Generate, shape: Shape) -> Notes:
    """All frames wanted, none given."""
    height, width = (max(1, round(n / shape.multiple)) * shape.multiple for n in (settings.height, settings.width))
    if (height, width) != (settings.height, settings.width):
        yield Note(f"{settings.width}x{settings.height} is rounded to {width}x{height}, which the network can do")
    places = range(settings.frames)
    fps = Fraction(settings.fps).limit_denominator(100_000)
    return Layout(Spool((height, width, shape.channels)), Timeline((), places, places, fps))
