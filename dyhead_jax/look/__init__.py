"""Pictures of what the attentions of a trained model do with one photograph: `python -m dyhead_jax.look --help`.

Attentions record what they use by Flax's `self.sow("intermediates", name, value)`, which costs nothing unless somebody
collects it. These names have pictures of their own; b is 1:

    module   name              value
    spatial  mid, low, high    {"offsets": [(b, h, w, 9 g, 2), ...], "weights": [(b, h, w, 9 g), ...]}: (dy, dx) and
                               mask of the 3x3 kernels that read the own, the finer (stride 2) and the coarser level,
                               for g deformable groups; an entry for each level that has such a neighbour, fine to
                               coarse, of the size (h, w) of the kernel's output
    scale    weights           a list of (b, 1), one for each candidate; once for each level
    task     coefficients      {"a1", "b1", "a2", "b2"}: (b, c) each, of max(a1 x + b1, a2 x + b2); once for each level

An attention of your own takes part by recording the same names, or any others: an array (b, h_l, w_l, ...) of a level's
size becomes a heat map, a vector (b, n) a bar picture, and what is neither is named on the page. The maps before and
after each block need no recording.
"""
