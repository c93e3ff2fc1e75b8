"""`python -m videodiff`, the same as the command."""

from videodiff.cli import main

main()
