"""A report on detections: one HTML page and the same numbers as JSON. Start reading at `write.py`."""
