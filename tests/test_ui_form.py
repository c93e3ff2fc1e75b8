"""The form is the Settings models: no field without a control, no control without a field, the same requests."""

from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio")

from videodiff.errors import UserError  # noqa: E402
from videodiff.presets import QUALITIES  # noqa: E402
from videodiff.settings import TASKS  # noqa: E402
from videodiff_ui.fields import CHOSEN, FILES, fields_of, help_key  # noqa: E402
from videodiff_ui.form import MACHINE, Form, labels, shown_value  # noqa: E402
from videodiff_ui.words import LOCALES, plain  # noqa: E402

FIRST = ("frames", "steps", "seed")
MINIMUM = {"infill": {"missing": "2:4"}, "restore": {"operator": "denoise"}}
CLIPS = {"input": Path("a.mp4"), "to": Path("b.mp4")}


def form(*kinds: str, **options) -> Form:
    with gradio.Blocks():
        return Form(kinds, FIRST, **options)


def files_for(kind: str) -> dict[str, Path]:
    needed = {name for name, about in TASKS[kind].model_fields.items() if about.is_required()}
    return {name: path for name, path in CLIPS.items() if name in needed}


@pytest.mark.parametrize("kind", TASKS)
def test_every_field_has_a_control_or_a_place_and_nothing_else_has(kind: str) -> None:
    assert set(form(kind).names) | (set(FILES) | set(CHOSEN)) & set(TASKS[kind].model_fields) == set(
        TASKS[kind].model_fields
    )


@pytest.mark.parametrize("kind", TASKS)
def test_controls_as_drawn_are_the_defaults_of_the_model(kind: str) -> None:
    drawn = form(kind)
    values = {name: control.value for name, control in drawn.controls.items()} | MINIMUM.get(kind, {})
    request = drawn.read(kind, values, **files_for(kind))
    expected = TASKS[kind](**MINIMUM.get(kind, {}), **files_for(kind))
    assert request.model_dump(exclude={"seed"}) == expected.model_dump(exclude={"seed"})


@pytest.mark.parametrize("kind", TASKS)
def test_a_request_shown_in_the_controls_is_read_back_equal(kind: str) -> None:
    changed = {"seed": 7, "steps": 5, "guidance_interval": (0.3, 5.0), "guidance": 2.0, "threads": 2}
    if kind in ("edit", "vary", "morph", "restore"):
        changed = {"seed": 7, "steps": 5, "threads": 2}
    request = TASKS[kind](**changed, **MINIMUM.get(kind, {}), **files_for(kind))
    drawn = form(*TASKS)
    updates = drawn.of_kind(kind, request.model_dump(exclude={"input", "to"}))
    values = {name: update.get("value") for name, update in zip(drawn.names, updates, strict=True)}
    assert drawn.read(kind, values, **files_for(kind)) == request
    visible = {name for name, update in zip(drawn.names, updates, strict=True) if update["visible"]}
    assert visible == set(form(kind).names)


def test_errors_are_those_of_the_model() -> None:
    drawn = form("predict")
    with pytest.raises(UserError, match=r"frames: .*greater than or equal to 1 \(given '0'\)"):
        drawn.read("predict", {"frames": 0}, **CLIPS | {"to": None})
    with pytest.raises(UserError, match=r"--guidance-rescale means nothing without --guidance;"):
        drawn.read("predict", {"guidance_rescale": 0.5}, input=Path("a.mp4"))


def test_options_are_called_by_their_names_on_the_page() -> None:
    assert plain("--guidance-rescale needs --guidance") == "“Guidance rescale” needs “Guidance”"
    assert plain("--guidance", "ko") == "“가이던스”"
    assert plain("write --nothing-known") == "write --nothing-known"


def test_controls_are_explained_by_the_model_in_every_language() -> None:
    for kind in TASKS:
        for name, about in fields_of(kind).items():
            key = help_key(kind, name)
            assert LOCALES["en"].get(key, f"{LOCALES['en'][f'field.{name}']}.") == plain(about.description or "")
            assert all((key in texts) == (key in LOCALES["en"]) for texts in LOCALES.values()), key
    info = dict(zip((drawn := form("edit", "vary")).names, drawn.of_kind("vary"), strict=True))["steps"]["info"]
    assert info.key == "help.vary.steps"


def test_a_preset_sets_its_fields_and_takes_back_those_of_another() -> None:
    drawn = form("predict")
    for preset, quality in QUALITIES.items():
        updates = dict(zip(drawn.names, drawn.with_preset("predict", preset), strict=True))
        for name in {"steps", "sampler", "average"}:
            expected = quality.settings.get(name, TASKS["predict"].model_fields[name].default)
            assert updates[name]["value"] == expected, (preset, name)


def test_visitors_do_not_choose_the_machine() -> None:
    drawn = form(*TASKS, public=True)
    assert not set(MACHINE) & set(drawn.names)
    assert not drawn.controls["checkpoint"].allow_custom_value


def test_every_control_has_a_name_in_every_language() -> None:
    for language, texts in LOCALES.items():
        assert not labels(TASKS) - set(texts), language


def test_pairs_are_shown_as_two_numbers() -> None:
    assert shown_value((0.3, 5.0)) == "0.3 5"
