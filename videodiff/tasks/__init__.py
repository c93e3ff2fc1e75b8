"""Tasks: one file each, whose name is the command's. `lay_out` reads the input into a spool and says what is wanted.

A task knows neither networks nor samplers; it only lays frames out in time.
"""

from types import ModuleType

from videodiff.tasks import edit, generate, infill, interpolate, loop, morph, predict, restore, vary

TASKS: dict[str, ModuleType] = {
    "predict": predict,
    "interpolate": interpolate,
    "infill": infill,
    "loop": loop,
    "edit": edit,
    "vary": vary,
    "morph": morph,
    "restore": restore,
    "generate": generate,
}
