"""Video files in and out: the one door for PyAV, imageio and Pillow.

Reading (`reader.py`) and writing (`writer.py`) are what others call; `sheets.py` makes pictures of clips. Behind the
reader, `guard.py` sends a `Request` to `child.py`, which decodes with `decode.py` (films) or `pictures.py`, choosing
frames by `choose.py` and placing pixels by `geometry.py`. `folders.py` finds the clips of a folder. The three libraries
load when first needed.
"""

from videodiff.video.metadata import read_metadata, write_sidecar
from videodiff.video.reader import Index, clips_in, probe, read, read_levels, read_mask, stream
from videodiff.video.shapes import PICTURES, VIDEO, Clip, ClipInfo, Frame, Limits
from videodiff.video.sheets import contact_sheet, jpeg, resize
from videodiff.video.writer import Writer, write

__all__ = [
    "PICTURES",
    "VIDEO",
    "Clip",
    "ClipInfo",
    "Frame",
    "Index",
    "Limits",
    "Writer",
    "clips_in",
    "contact_sheet",
    "jpeg",
    "probe",
    "read",
    "read_levels",
    "read_mask",
    "read_metadata",
    "resize",
    "stream",
    "write",
    "write_sidecar",
]
