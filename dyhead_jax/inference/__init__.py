"""A trained model on pictures, in the pixels of the pictures: for Python, `predict` and the checks of exports."""
