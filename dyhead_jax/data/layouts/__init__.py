"""How people keep photographs and their boxes: `find` looks, `coco`, `yolo` and `voc` read, `parts` divides."""
