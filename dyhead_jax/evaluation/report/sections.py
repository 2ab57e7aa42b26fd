"""The parts of the page with tables: averages, classes, kinds of errors, confusion."""

from html import escape

import numpy as np

from dyhead_jax.evaluation.report.analysis import Analysis, ClassRow
from dyhead_jax.evaluation.report.elements import cell, integer, number, table
from dyhead_jax.evaluation.report.error_kinds import KINDS

LARGEST_TABLE = 16  # classes in the table of confusions
OPEN = 25  # a longer table of classes is folded

_MEANINGS = {
    "Cls": ("Wrong class", "the box is right, the class is not"),
    "Loc": ("Inexact box", "the class is right, the box overlaps the object too little (IoU .1 to .5)"),
    "Both": ("Wrong class and inexact box", "both at once"),
    "Dupe": ("Second box", "the object has a better box already"),
    "Bkg": ("Background", "a box where no object is (IoU below .1)"),
    "Miss": ("Missed", "an object without any box that comes near it"),
    "FalsePos": ("All false boxes gone", "whatever their kind"),
    "FalseNeg": ("All missed objects found", "whatever the reason"),
}


def averages(analysis: Analysis) -> str:
    """The 12 COCO numbers."""
    metrics, boxes = analysis.metrics, analysis.boxes_by_size
    counted = int((~analysis.table.ignored).sum())
    by_size = [
        ("all", counted, "AP", "AR100"),
        ("small, below 32 × 32 pixels", boxes["small"], "APs", "ARs"),
        ("medium", boxes["medium"], "APm", "ARm"),
        ("large, above 96 × 96 pixels", boxes["large"], "APl", "ARl"),
    ]
    others = [
        ("AP50", "AP with a loose box (IoU .5)"),
        ("AP75", "AP with a close box (IoU .75)"),
        ("AR1", "AR with 1 box an image"),
        ("AR10", "AR with 10 boxes an image"),
    ]
    left = table(
        ["Objects", "boxes", "AP", "AR"],
        [
            [name, cell(integer(count)), cell(number(metrics[ap])), cell(number(metrics[ar]))]
            for name, count, ap, ar in by_size
        ],
    )
    right = table(
        ["Other", "", ""],
        [[key, f'<td class="name">{text}</td>', cell(number(metrics[key]))] for key, text in others],
    )
    return (
        '<h2 id="ap">Average precision</h2>'
        "<p>AP is 1 when every object is found with a close box and no false box scores higher; AR is the fraction of"
        " the objects that is found with at most 100 boxes an image. Both are means over the classes and over ten"
        " demands on the overlap of boxes (IoU .5 to .95), as COCO computes them.</p>"
        f'<div class="pair"><div>{left}</div><div>{right}</div></div>'
    )


def classes(analysis: Analysis) -> str:
    """A row for each class."""

    def row(entry: ClassRow) -> list[str]:
        counts = [integer(entry.boxes), integer(entry.images)]
        return [
            escape(entry.name),
            *map(cell, [*counts, *map(number, (entry.AP, entry.AP50, entry.precision, entry.recall))]),
        ]

    head = ["Class", "boxes", "images", "AP", "AP50", "precision", "recall"]
    listed = table(head, [row(entry) for entry in analysis.classes])
    if len(analysis.classes) > OPEN:
        listed = f"<details><summary>All {len(analysis.classes)} classes</summary>{listed}</details>"
    return (
        "<h3>By class</h3>"
        f"<p>Precision is the fraction of the boxes of a class that is right, recall that of its objects that is found,"
        f" both when boxes with a score below {analysis.score:.2f} are dropped and an overlap of IoU .5 is enough.</p>"
        f"{listed}"
    )


def errors(analysis: Analysis) -> str:
    """The kinds of errors with a bar each."""
    found = analysis.errors
    largest = max([*found.gains.values(), 1e-9])

    def row(name: str) -> list[str]:
        title, meaning = _MEANINGS[name]
        gain = found.gains[name]
        bar = f'<i style="width:{100 * gain / largest:.1f}%"></i>' if gain > 0 else ""
        count = cell(integer(found.counts[name])) if name in found.counts else "<td></td>"
        high = None
        if name in KINDS[:-1]:  # of boxes
            high = int((analysis.confusion.shown & (found.kind == KINDS.index(name))).sum())
        return [
            f"{title}<small>{meaning}</small>",
            count,
            "<td></td>" if high is None else cell(integer(high)),
            cell(number(max(gain, 0.0))),
            f'<td class="bar">{bar}</td>',
        ]

    head = ["Kind", "errors", f"≥ {analysis.score:.2f}", "AP50 lost", ""]
    listed = table(head, [row(name) for name in (*KINDS, "FalsePos", "FalseNeg")])
    return (
        '<h2 id="errors">Kinds of errors</h2>'
        f"<p>The bars show how much AP50, now {number(found.ap50)}, would rise if one kind of error alone were repaired"
        " and all others stayed. They do not add up, since one repair makes room for another. The first column counts"
        " boxes of every score, also the many with low scores, which cost little; the second those from the suggested"
        " score threshold on.</p>"
        f"{listed}"
        '<p class="soft">Kinds and costs as in TIDE (Bolya et al., ECCV 2020): Cls, Loc, Both, Dupe, Bkg, Miss.</p>'
    )


def confusion(analysis: Analysis) -> str:
    """True classes in rows, detected ones in columns."""
    counts, names = analysis.confusion.counts, analysis.table.class_names
    count = len(names)
    between = counts[:count, :count] * (1 - np.eye(count, dtype=np.int64))
    mixed_up = between.sum(0) + between.sum(1)
    chosen = np.arange(count)
    rest = ""
    if count > LARGEST_TABLE:
        by_confusions = np.argsort(-mixed_up, kind="stable")[:LARGEST_TABLE]
        chosen = np.sort(by_confusions[mixed_up[by_confusions] > 0])
        others = np.setdiff1d(np.arange(count), chosen)
        never = int((mixed_up[others] == 0).sum())
        right, missed = int(np.diag(counts[:, :count])[others].sum()), int(counts[others, count].sum())
        false = int(counts[count, others].sum())
        rest = (
            f"<p>Not in the table: {len(others)} classes, {never} of them never taken for another nor another for them;"
            f" together {integer(right)} boxes right, {integer(missed)} missed, {integer(false)} false,"
            f" {integer(int(mixed_up[others].sum()))} times mixed up.</p>"
        )
    rows = [*chosen, count, *([count + 1] if counts[-1].any() else [])]
    columns = [*chosen, count]
    tall = len(columns) > 7
    label = {**dict(enumerate(map(escape, names))), count: "missed"}
    head = "".join(
        f'<th scope="col"{" class=extra" if c == count else ""}>'
        f"<div{' class=tall' if tall else ''}>{label[c]}</div></th>"
        for c in columns
    )
    row_label = {**label, count: "false", count + 1: "on a crowd region"}
    body = []
    for r in rows:
        total = max(int(counts[r].sum()), 1)
        cells = "".join(
            "<td class=none></td>"
            if r >= count and c == count
            else f'<td style="--s:{counts[r, c] / total:.3f}">{integer(int(counts[r, c]))}</td>'
            if counts[r, c]
            else '<td class="zero">·</td>'
            for c in columns
        )
        body.append(f'<tr><th scope="row"{" class=extra" if r >= count else ""}>{row_label[r]}</th>{cells}</tr>')
    drawn = (
        f'<div class="wide"><table class="confusion"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
    if not len(chosen):
        drawn = "<p>No class is ever taken for another.</p>"
    return (
        '<h2 id="confusion">Which class is taken for which</h2>'
        "<p>A row holds the true objects of a class, a column what they were taken for; the shade is the fraction of"
        f" the row. Boxes with a score of {analysis.score:.2f} or more count, each for the object it overlaps most,"
        " whatever its class (IoU .5). <i>Missed</i> objects have no box, <i>false</i> boxes no object.</p>"
        f"{drawn}{rest}"
    )
