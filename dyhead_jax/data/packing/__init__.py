"""Packs images and annotations into array_record files that tfds opens, without TensorFlow."""
