"""The whole page: one HTML file that needs nothing else."""

from collections.abc import Sequence
from html import escape

from dyhead_jax.evaluation.report import figures, sections
from dyhead_jax.evaluation.report.analysis import Analysis
from dyhead_jax.evaluation.report.elements import definitions, integer, number
from dyhead_jax.evaluation.report.setting import Setting, hardware, versions
from dyhead_jax.evaluation.report.style import CSS, SCRIPT
from dyhead_jax.evaluation.report.worst import Picture

_CONTENTS = {
    "setting": "What was evaluated",
    "ap": "Average precision",
    "curves": "Curves",
    "errors": "Kinds of errors",
    "confusion": "Confusions",
    "worst": "Worst images",
}


def page(analysis: Analysis, setting: Setting, pictures: Sequence[Picture]) -> str:
    """The HTML of a report. Titles, names and notes may hold any characters; they are escaped."""
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in _CONTENTS.items())
    body = [
        f'<header><h1>{escape(setting.title)}</h1><p class="under">{_summary(analysis, setting)}</p><nav>{links}</nav>',
        f"{_key_numbers(analysis, setting)}</header><main>",
        _setting(analysis, setting),
        sections.averages(analysis),
        sections.classes(analysis),
        figures.curves(analysis),
        sections.errors(analysis),
        sections.confusion(analysis),
        figures.worst(analysis, pictures),
        f"</main><script>{SCRIPT}</script>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(setting.title)}</title><style>{CSS}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _summary(analysis: Analysis, setting: Setting) -> str:
    table = analysis.table
    boxes = int((~table.ignored).sum())
    return (
        f"{integer(len(table.image_ids))} images, {integer(boxes)} true boxes, {integer(len(table.category_ids))}"
        f" {'class' if len(table.category_ids) == 1 else 'classes'}, evaluated {escape(setting.date)}"
    )


def _key_numbers(analysis: Analysis, setting: Setting) -> str:
    metrics = analysis.metrics
    entries = [
        (number(metrics["AP"]), "AP, the mean over IoU .5 to .95"),
        (number(metrics["AP50"]), "AP50, a loose box is enough"),
        (number(metrics["AP75"]), "AP75, the box must be close"),
    ]
    if analysis.curves.best is not None:
        entries.append((f"{analysis.score:.2f}", "suggested score threshold"))
    if setting.speed:
        entries.append((f"{setting.speed['ms_per_image']:.0f} ms", "an image, the model alone"))
    inside = "".join(f"<div><b>{value}</b><span>{text}</span></div>" for value, text in entries)
    return f'<div class="key">{inside}</div>'


def _setting(analysis: Analysis, setting: Setting) -> str:
    table = analysis.table
    notes = [*setting.notes, *analysis.notes]
    crowd = int(table.crowd.sum())
    counts = f"{integer(len(table.image_ids))} images, {integer(int((~table.ignored).sum()))} boxes"
    data = [
        *setting.data,
        ("holds", counts + (f", {crowd} crowd regions" if crowd else "")),
        ("detections", integer(len(table.score))),
        ("left out", "; ".join(notes) or "nothing"),
    ]
    versions_of = ", ".join(f"{name} {version}" for name, version in versions().items())
    model = [*setting.model, ("computed on", hardware(setting.devices)), ("versions", versions_of)]
    return (
        '<h2 id="setting">What was evaluated</h2><div class="pair">'
        f"<div><h3>Data</h3>{definitions(data)}</div><div><h3>Model and machine</h3>{definitions(model)}</div></div>"
        f'<p class="soft">Speed: {escape(_speed(setting))}.</p>'
    )


def _speed(setting: Setting) -> str:
    speed = setting.speed
    if not speed:
        return f"not measured, {setting.no_speed}"
    canvases = "; ".join(
        f"{c['width']} × {c['height']} pixels, {c['batches']} batches of {c['batch']}: {c['ms_per_image']:.1f} ms"
        for c in speed["canvases"]
    )
    passes = f", {speed['passes']} passes over each" if speed["passes"] > 1 else ""
    missing = speed["canvases_of_one_batch"]
    unmeasured = f"; {missing} canvases with a single batch are not in it" if missing else ""
    return (
        f"{speed['ms_per_image']:.1f} ms an image{passes}: {speed['includes']}. Measured after the first batch of each"
        f" size, which compiles ({canvases}){unmeasured}"
    )
