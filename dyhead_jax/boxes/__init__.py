"""Boxes as numbers: geometry, anchors, assignment to ground truth, sampling, suppression, pooling. No parameters."""
