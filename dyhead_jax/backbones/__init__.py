"""Backbones: images to the maps C2 to C5. What a backbone offers is written in `detectors`."""
