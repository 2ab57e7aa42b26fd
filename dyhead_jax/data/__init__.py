"""Data sets: sources and their splits, transforms, the schedule of batches, and the pipeline that loads them."""
