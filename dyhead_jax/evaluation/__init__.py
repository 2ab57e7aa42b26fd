"""A trained model and its detections: average precision, tests at several scales, pictures."""
