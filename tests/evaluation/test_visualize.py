"""Predicted and true boxes of held-out images, side by side."""

import numpy as np

from dyhead_jax.data.pictures import color
from dyhead_jax.data.source import Example
from dyhead_jax.evaluation import visualize


class Split:
    class_names = ("a", "b")
    category_ids = (7, 3)
    image_ids = np.array([11, 12, 13])

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return Example(
            image=np.full((100, 200, 3), 10 * i, np.uint8),
            image_id=int(self.image_ids[i]),
            file_name=f"{i}.jpg",
            boxes=np.array([[20, 20, 80, 80]], np.float32),
            labels=np.array([0], np.int32),
            crowd=np.array([i == 1]),
        )


def test_held_out_draws_predictions_left_and_truth_right_at_the_right_place():
    results = [
        {"image_id": 11, "category_id": 3, "bbox": [100.0, 20.0, 60.0, 60.0], "score": 0.9},
        {"image_id": 11, "category_id": 3, "bbox": [10.0, 10.0, 20.0, 20.0], "score": 0.1},  # below the threshold
        {"image_id": 99, "category_id": 3, "bbox": [0.0, 0.0, 20.0, 20.0], "score": 0.9},  # not shown
    ]
    picture = visualize.held_out(Split(), results, count=2, side=100, pairs=1)
    assert picture.shape == (24 + 6 + 2 * 56, 6 + 2 * 106, 3)
    left, right = picture[30:80, 6:106], picture[30:80, 112:212]
    assert tuple(left[39, 65]) == color(1)  # bottom edge of the prediction, at half size
    assert tuple(right[39, 25]) == color(0)
    assert not (left == color(0)).all(-1).any()
    assert (left[:9, :20] == 0).all()
