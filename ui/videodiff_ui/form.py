"""Controls made from the Settings models: one for each field that is not a file, and back to a validated request.

`Form(("predict", "loop"), first=("frames",))` draws, inside the Blocks context it is called in, the controls of several
kinds of request at once; those that a kind does not have are hidden. A type gives the control, the field's help its
explanation, the model its default; errors are the model's own.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import gradio as gr
from pydantic.fields import FieldInfo

from videodiff.presets import QUALITIES
from videodiff.settings import TASKS, Task, validate
from videodiff_ui.fields import fields_of, help_key
from videodiff_ui.words import LOCALES, _

DEVICES = ("auto", "cpu", "cuda", "mps")
MACHINE = ("device", "precision", "attention", "threads")
"""What a visitor of a public server does not choose."""


class Form:
    """The controls of some kinds of request. `first` are shown in the open, in this order, the others folded away."""

    def __init__(
        self,
        kinds: Sequence[str],
        first: Sequence[str],
        prefix: str = "vd",
        checkpoints: Sequence[str | tuple[str, str]] = ("motion",),
        public: bool = False,
    ):
        self.kinds, self.checkpoints, self.public = tuple(kinds), tuple(checkpoints), public
        self.fields: dict[str, FieldInfo] = {}
        for kind in kinds:
            for name, about in fields_of(kind).items():
                self.fields.setdefault(name, about)
        if public:
            self.fields = {name: about for name, about in self.fields.items() if name not in MACHINE}
        self.prefix = prefix
        self.controls: dict[str, Any] = {}
        shown = [name for name in first if name in self.fields]
        with gr.Row(elem_classes="vd-fields"):
            for name in shown:
                self.controls[name] = self._control(name)
        with gr.Accordion(_("make.more"), open=False, elem_id=f"{prefix}-more"), gr.Row(elem_classes="vd-fields"):
            for name in self.fields:
                if name not in self.controls:
                    self.controls[name] = self._control(name)

    def _control(self, name: str) -> Any:
        """The component for a field, with the first kind's default."""
        about = self.fields[name]
        kind = self.kinds[0]
        first = next(kind for kind in self.kinds if name in fields_of(kind))
        common = {
            "label": _(f"field.{name}"),
            "info": _info(first, name),
            "elem_id": f"{self.prefix}-field-{name}",
            "value": shown_value(_default(kind, name, about)),
            "visible": name in fields_of(kind),
            "interactive": True,
            "min_width": 150,
        }
        if name == "checkpoint":
            return gr.Dropdown([*self.checkpoints], allow_custom_value=not self.public, **common)
        if name == "device":
            return gr.Dropdown([*DEVICES], allow_custom_value=True, **common)
        bare = _bare(about.annotation)
        if get_origin(bare) is Literal:
            return (gr.Radio if len(get_args(bare)) < 5 else gr.Dropdown)(_choices(name, get_args(bare)), **common)
        if bare is bool:
            return gr.Checkbox(**common)
        if bare in (int, float) and bare is about.annotation:  # an empty gr.Number says 0, which is not "not given"
            low, high = _range(about)
            if bare is float and low == 0 and high == 1:
                return gr.Slider(0, 1, step=0.01, **common)
            return gr.Number(precision=0 if bare is int else None, **common)
        return gr.Textbox(max_lines=1, placeholder=_("make.automatic"), **common)

    @property
    def components(self) -> list[Any]:
        """All controls, in the order of `names`."""
        return list(self.controls.values())

    @property
    def names(self) -> list[str]:
        """The fields in the order of the controls."""
        return list(self.controls)

    def read(self, kind: str, values: Mapping[str, Any], **files: Any) -> Task:
        """The request that the controls (by name) and files say. UserError if it is not one."""
        given = {name: value for name, value in files.items() if value not in (None, "")}
        for name, about in fields_of(kind).items():
            value = values.get(name)
            if isinstance(value, str):
                value = value.strip()
            unasked = not about.is_required() and value == shown_value(_default(kind, name, about))
            if value in (None, "") or unasked:
                continue
            given[name] = tuple(value.split()) if _bare(about.annotation) not in PLAIN and _pair(about) else value
        return validate(TASKS[kind], given, where=kind)

    def of_kind(self, kind: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """Updates of all controls for another kind: hidden or shown, with its help, its defaults or these values."""
        fields, updates = fields_of(kind), []
        for name in self.controls:
            if name not in fields:
                updates.append(gr.update(visible=False))
                continue
            value = (values or {}).get(name, _default(kind, name, fields[name]))
            updates.append(gr.update(visible=True, value=shown_value(value), info=_info(kind, name)))
        return updates

    def with_values(self, values: Mapping[str, Any]) -> list[Any]:
        """Updates of the controls named, none of the others."""
        return [gr.update(value=shown_value(values[name])) if name in values else gr.skip() for name in self.controls]

    def with_preset(self, kind: str, preset: str) -> list[Any]:
        """Updates that apply a quality; every field that some quality sets goes back to its default first."""
        fields = fields_of(kind)
        touched = {name for quality in QUALITIES.values() for name in quality.settings}
        values = {name: _default(kind, name, fields[name]) for name in touched if name in fields}
        if preset in QUALITIES:
            values |= QUALITIES[preset].settings
        return self.with_values(values)


PLAIN = (int, float, bool, str)


def _info(kind: str, name: str) -> str | None:
    """What explains a field; None where its name says it all."""
    key = help_key(kind, name)
    return _(key) if key in LOCALES["en"] else None


def _choices(name: str, values: Iterable[Any]) -> list[Any]:
    """The values of a field, in the reader's words where there are some."""
    return [(_(key), value) if (key := f"choice.{name}.{value}") in LOCALES["en"] else value for value in values]


def _bare(annotation: Any) -> Any:
    """The type without None."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) and len(kinds) == 1 else annotation


def _pair(about: FieldInfo) -> bool:
    return get_origin(_bare(about.annotation)) is tuple


def _range(about: FieldInfo) -> tuple[float | None, float | None]:
    """The least and the largest value a field allows, None where it is open."""
    low = next((m.ge for m in about.metadata if hasattr(m, "ge")), None)
    return low, next((m.le for m in about.metadata if hasattr(m, "le")), None)


def _default(kind: str, name: str, about: FieldInfo) -> Any:
    """What a field is if nothing is asked; the first choice where the model insists on one."""
    own = TASKS[kind].model_fields.get(name, about)
    return get_args(own.annotation)[0] if own.is_required() else own.default


def shown_value(value: Any) -> Any:
    """A value as its control shows it: a pair as two numbers with a space between."""
    return " ".join(f"{part:g}" for part in value) if isinstance(value, tuple | list) else value


def labels(kinds: Iterable[str]) -> set[str]:
    """The keys of the names that a form of these kinds needs."""
    return {f"field.{name}" for kind in kinds for name in fields_of(kind)}
