"""Weights of other projects: readers of their files, tables of their names, and what they were trained on."""
