"""The parts of the page with charts and pictures."""

import json
from collections.abc import Sequence
from html import escape

import numpy as np

from dyhead_jax.data.pictures import color
from dyhead_jax.evaluation.report.analysis import Analysis, mean_precision
from dyhead_jax.evaluation.report.charts import LEFT, RIGHT, WIDTH, Axis, Line, chart
from dyhead_jax.evaluation.report.curves import RECALLS
from dyhead_jax.evaluation.report.elements import cell, image, number, table
from dyhead_jax.evaluation.report.worst import Picture

_STYLES = {0.5: "blue", 0.75: "orange dashed"}


def curves(analysis: Analysis) -> str:
    """Precision against recall, and both against the score."""
    return (
        '<h2 id="curves">Curves</h2>'
        "<p>A threshold on the scores decides how many boxes are kept: a low one finds more objects, a high one leaves"
        f' fewer false boxes.</p><div class="pair">{_precision_recall(analysis)}{_scores(analysis)}</div>'
    )


def _precision_recall(analysis: Analysis) -> str:
    lines, options, rules = [], [], []
    for iou, precision in analysis.precision.items():
        mean = mean_precision(precision)
        if mean is not None:
            lines.append(Line(RECALLS, mean, f"mean {_STYLES[iou]}", f"mean of the classes, IoU {iou:g}"))
        for i in np.flatnonzero(~np.isnan(precision).any(1)):
            name = f"{analysis.table.class_names[i]}, IoU {iou:g}"
            lines.append(Line(RECALLS, precision[i], f"class k{i} {_STYLES[iou]}", name))
    for i, row in enumerate(analysis.classes):
        if row.boxes:
            options.append(f'<option class="one" value="{i}">{escape(row.name)}</option>')
            rules.append(f'#recall:has(option[value="{i}"]:checked) .k{i} {{ display: inline; }}')
    rules.append("#recall:has(option.one:checked) .mean { display: none; }")
    drawn = chart(lines, Axis("recall: fraction of the objects that is found"), "precision", "Precision against recall")
    return (
        f'<figure id="recall"><style>{"".join(rules)}</style><div class="legend">'
        '<select aria-label="class"><option value="mean" selected>mean of the classes</option>'
        f'{"".join(options)}</select><span><i class="blue"></i>IoU .5</span>'
        f'<span><i class="orange dashed"></i>IoU .75</span></div>{drawn}'
        "<figcaption>From left to right more boxes are accepted, those with the highest scores first: more objects are"
        " found (recall), and a smaller fraction of the boxes is right (precision). The area below a curve is its AP."
        "</figcaption></figure>"
    )


def _scores(analysis: Analysis) -> str:
    curves = analysis.curves
    axis = Axis("score threshold", float(curves.score[0]), float(curves.score[-1]))
    values = {"precision": curves.precision, "recall": curves.recall, "f1": curves.f1}
    styles = {"precision": "blue", "recall": "orange", "f1": "green"}
    names = {"precision": "precision", "recall": "recall", "f1": "F1"}
    lines = [Line(curves.score, values[key], styles[key], names[key]) for key in values]
    drawn = chart(
        lines,
        axis,
        "",
        "Precision, recall and F1 against the score threshold",
        None if curves.best is None else analysis.score,
    )
    legend = "".join(f'<span><i class="{styles[key]}"></i>{names[key]}</span>' for key in values)
    data = {key: [number(float(v), 2) for v in values[key]] for key in values}
    data |= {"score": [f"{v:.2f}" for v in curves.score], "left": LEFT, "right": WIDTH - RIGHT}
    slider = ""
    if curves.best is not None:
        slider = (
            f'<div hidden><input type="range" min="0" max="{len(curves.score) - 1}" value="{curves.best}"'
            ' aria-label="score threshold"><br><output></output></div>'
        )
    return (
        f'<figure id="scores"><div class="legend">{legend}</div>{drawn}{slider}<figcaption>A higher threshold leaves'
        " fewer false boxes (precision) and finds fewer objects (recall), all classes together, at IoU .5. F1 is high"
        f" where both are. {_suggestion(analysis)}</figcaption></figure>"
        f'<script type="application/json" id="by-score">{json.dumps(data)}</script>'
    )


def _suggestion(analysis: Analysis) -> str:
    best = analysis.curves.best
    if best is None:
        return "No box hits an object, so no score can be suggested."
    curves = analysis.curves
    f1, precision, recall = (number(float(y[best]), 2) for y in (curves.f1, curves.precision, curves.recall))
    use = f", a good start for <code>predict --score {analysis.score:.2f}</code>" if 0 <= analysis.score <= 1 else ""
    return (
        f"F1 is highest, {f1}, at <b>{analysis.score:.2f}</b>{use}: {precision} of the boxes are right and {recall} of"
        " the objects found."
    )


def worst(analysis: Analysis, pictures: Sequence[Picture]) -> str:
    """A table of the images with the most errors, then their pictures."""
    head = '<h2 id="worst">Worst images</h2>'
    if not pictures:
        return f"{head}<p>No image has an error at a score of {analysis.score:.2f}.</p>"
    rows = [
        [
            f'<a href="#image-{i}">{escape(p.file_name)}</a>',
            *(cell(str(n)) for n in (p.right, p.missed, p.wrong_class, p.false)),
        ]
        for i, p in enumerate(pictures, 1)
    ]
    listed = table(["Image", "right", "missed", "wrong class", "false"], rows)
    shown = any(p.predicted is not None for p in pictures)
    used = sorted(frozenset().union(*(p.labels for p in pictures if p.predicted is not None)))
    names = analysis.table.class_names
    legend = "".join(
        f'<span><i class="box" style="background:rgb{color(i)}"></i>{escape(names[i])}</span>' for i in used
    )
    explained = (
        "Left are the predicted boxes, right the true ones; what is wrong has stripes. Colours stand for classes:"
        if shown
        else "No pictures were given, so the errors are only counted."
    )
    articles = "".join(_article(i, p) for i, p in enumerate(pictures, 1))
    return (
        f"{head}<p>The {len(pictures)} images with the most errors, at a score of {analysis.score:.2f} or more."
        f" {explained}</p>"
        f"{f'<div class=legend>{legend}</div>' if shown else ''}{listed}{articles}"
    )


def _article(place: int, picture: Picture) -> str:
    pair = f'<p class="soft">No picture: {escape(picture.problem)}</p>' if picture.problem else ""
    if picture.predicted is not None and picture.true is not None:
        pair = (
            f'<div class="pair">{image(picture.predicted, f"predicted boxes on {picture.file_name}")}'
            f"{image(picture.true, f'true boxes on {picture.file_name}')}</div>"
        )
    return (
        f'<article id="image-{place}"><h3>{place}. {escape(picture.file_name)}</h3>'
        f'<p>{escape(picture.errors)} <a href="#worst">back</a></p>{pair}</article>'
    )
