"""Make, edit and restore: a clip in, a request, a clip out."""

from videodiff_ui.context import App


def build(app: App, page: str = "make") -> None:
    """The components of the page, inside its tab."""
