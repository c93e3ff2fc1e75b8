"""Which fields of a request have controls, and what explains them.

A field's help is the one of its Settings model; `help_key` names it in the locales, where the other languages have it.
"""

from pydantic.fields import FieldInfo

from videodiff.settings import TASKS

FILES = ("input", "to", "mask", "guide", "reference")
"""Fields that name files; the page has places to drop them."""
CHOSEN = ("kind", "output", "overwrite")
"""Fields the page fills in: the task, and where the store puts the result."""


def fields_of(kind: str) -> dict[str, FieldInfo]:
    """The fields of a task that have controls, by name."""
    return {name: about for name, about in TASKS[kind].model_fields.items() if name not in (*FILES, *CHOSEN)}


def help_key(kind: str, name: str) -> str:
    """`help.steps`, or `help.vary.steps` where that is the first task to explain the field in other words."""
    said = {task: fields[name].description for task in TASKS if name in (fields := fields_of(task))}
    first = next(task for task, text in said.items() if text == said[kind])
    return f"help.{name}" if first == next(iter(said)) else f"help.{first}.{name}"


def helps() -> dict[str, str]:
    """The help of all fields by its key, in the words of the command."""
    return {help_key(kind, name): about.description or "" for kind in TASKS for name, about in fields_of(kind).items()}
