"""This machine: devices, attention, codecs, disk, the worker, and the queue as a whole."""

from videodiff_ui.context import App


def build(app: App) -> None:
    """The components of the page, inside its tab."""
