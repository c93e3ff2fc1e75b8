"""The models: shipped, trained and added."""

from videodiff_ui.context import App


def build(app: App) -> None:
    """The components of the page, inside its tab."""
