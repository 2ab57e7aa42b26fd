"""The last part of a one-stage detector in ONNX's own operators: the best of each level, class-wise NMS, clipping.

The same steps as `boxes.postprocess`. Coordinates: boxes are (x1, y1, x2, y2) in pixels of the canvas; sizes are
(height, width). In the texts below, b images, k candidates, q classes, d detections.
"""

from collections.abc import Sequence

from dyhead_jax.boxes.postprocess import ClipBoxes

# of one level: (anchor, class) pairs by rank, and their boxes, scores and labels
LEVEL = """
  {l}_flat_rank = Reshape({l}_rank, flat)
  {l}_best, {l}_pair = TopK <axis = 1> ({l}_flat_rank, {l}_count)
  {l}_flat_scores = Reshape({l}_scores, flat)
  {l}_picked = GatherElements <axis = 1> ({l}_flat_scores, {l}_pair)
  {l}_is_candidate = Greater({l}_best, zero)
  {l}_kept_scores = Where({l}_is_candidate, {l}_picked, zero)
  {l}_row = Div({l}_pair, classes)
  {l}_label = Mod({l}_pair, classes)
  {l}_row_index = Unsqueeze({l}_row, last)
  {l}_kept_boxes = GatherND <batch_dims = 1> ({l}_boxes, {l}_row_index)
"""

LIMIT = """
  float_sizes = Cast <to = 1> (sizes)
  limits = Gather <axis = 1> (float_sizes, size_order)
  limit = Unsqueeze(limits, middle)
"""

CLIP = """
  {out}_above = Max({boxes}, zero)
  {out} = Min({out}_above, limit)
  {out}_x1, {out}_y1, {out}_x2, {out}_y2 = Split <axis = 2, num_outputs = 4> ({out})
  {out}_wide = Greater({out}_x2, {out}_x1)
  {out}_high = Greater({out}_y2, {out}_y1)
  {out}_solid = And({out}_wide, {out}_high)
  {out}_has_area = Squeeze({out}_solid, last)
"""

# candidates (b, k) -> the score of those that NMS keeps, else 0
SUPPRESS = """
  label_row = Unsqueeze(candidate_labels, middle)
  score_row = Unsqueeze(candidate_scores, middle)
  of_class = Equal(label_row, class_column)
  class_scores = Where(of_class, score_row, zero)
  selected = NonMaxSuppression(candidate_boxes, class_scores, keep, threshold, zero)
  places = Gather <axis = 1> (selected, image_and_box)
  selected_scores = GatherND(candidate_scores, places)
  nothing = Mul(candidate_scores, zero)
  after_nms = ScatterND(nothing, places, selected_scores)
"""

# the best of (b, k), in order
TAKE = """
  {out}_scores, {out}_place = TopK <axis = 1> ({scores}, {out}_count)
  {out}_labels = GatherElements <axis = 1> ({labels}, {out}_place)
  {out}_index = Unsqueeze({out}_place, last)
  {out}_boxes = GatherND <batch_dims = 1> ({boxes}, {out}_index)
"""

FINISH = """
  is_real = Greater(final_scores, zero)
  real_column = Unsqueeze(is_real, last)
  shown_boxes = Where(real_column, final_boxes, zero)
  shown_labels = Where(is_real, final_labels, minus_one)
  int_labels = Cast <to = 6> (shown_labels)
  boxes = Pad(shown_boxes, box_padding, zero)
  scores = Pad(final_scores, padding, zero)
  labels = Pad(int_labels, padding, int_minus_one)
"""


def graph_text(
    shapes: Sequence[tuple[int, int]],
    *,
    per_level: int,
    threshold: float,
    keep: int,
    clip_boxes: str,
) -> str:
    """A graph in ONNX's text form, from the raw predictions of each level to detections of fixed number.

    shapes: (anchors n_l, classes q) of each level. Inputs: sizes (b, 2) int32, and for level l l{l}_boxes (b, n_l, 4),
    l{l}_scores and l{l}_rank (b, n_l, q). per_level: candidates a level; threshold: IoU; keep: detections d.
    clip_boxes: a `ClipBoxes`. Outputs: boxes (b, d, 4), scores (b, d) and labels (b, d) int32.
    """
    classes = shapes[0][1]
    levels = [f"l{number}" for number in range(len(shapes))]
    counts = [min(per_level, anchors * classes) for anchors, _ in shapes]
    taken = min(keep, sum(counts))
    constants = {
        "int64[2] flat": "0, -1",
        "int64[1] last": "-1",
        "int64[1] middle": "1",
        "int64 classes": str(classes),
        "int64[4] size_order": "1, 0, 1, 0",
        f"int64[1,{classes},1] class_column": ", ".join(map(str, range(classes))),
        "int64[1] keep": str(keep),
        "int64[2] image_and_box": "0, 2",
        "float[1] threshold": repr(threshold),
        "float zero": "0",
        "int64 minus_one": "-1",
        "int32 int_minus_one": "-1",
        "int64[1] best_count": str(taken),
        "int64[1] final_count": str(taken),
        "int64[4] padding": f"0, 0, 0, {keep - taken}",
        "int64[6] box_padding": f"0, 0, 0, 0, {keep - taken}, 0",
        **{f"int64[1] {level}_count": str(count) for level, count in zip(levels, counts, strict=True)},
    }
    body = "".join(LEVEL.format(l=level) for level in levels) + LIMIT
    joined = "joined_boxes" if clip_boxes == ClipBoxes.BEFORE else "candidate_boxes"
    joined_scores = "joined_scores" if clip_boxes == ClipBoxes.BEFORE else "candidate_scores"
    for name, part in ((joined, "kept_boxes"), (joined_scores, "kept_scores"), ("candidate_labels", "label")):
        body += f"\n  {name} = Concat <axis = 1> ({', '.join(f'{level}_{part}' for level in levels)})"
    if clip_boxes == ClipBoxes.BEFORE:
        body += CLIP.format(boxes=joined, out="candidate_boxes")
        body += f"\n  candidate_scores = Where(candidate_boxes_has_area, {joined_scores}, zero)"
    body += SUPPRESS + TAKE.format(out="best", scores="after_nms", labels="candidate_labels", boxes="candidate_boxes")
    body += CLIP.format(boxes="best_boxes", out="clipped")
    body += "\n  real_scores = Where(clipped_has_area, best_scores, zero)"
    body += TAKE.format(out="final", scores="real_scores", labels="best_labels", boxes="clipped") + FINISH
    inputs = ["int32[b, 2] sizes"]
    for level, (anchors, _) in zip(levels, shapes, strict=True):
        inputs.append(f"float[b, {anchors}, 4] {level}_boxes")
        inputs += [f"float[b, {anchors}, {classes}] {level}_{name}" for name in ("scores", "rank")]
    outputs = [f"float[b, {keep}, 4] boxes", f"float[b, {keep}] scores", f"int32[b, {keep}] labels"]
    declared = ", ".join(f"{kind} = {{{values}}}" for kind, values in constants.items())
    return f"suppression ({', '.join(inputs)}) => ({', '.join(outputs)}) <{declared}> {{{body}}}"
