"""Necks: the maps of a backbone to a pyramid. What a neck offers is written in `detectors`."""
