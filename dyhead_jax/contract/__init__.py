"""What the attentions and blocks of DyHead have to keep, as properties that a command checks: see `__main__`.

A property is a function of a `Subject`. It returns what it found, in a few words; it raises `Broken` where the contract
does not hold, and `NotRun` where this machine cannot tell.
"""

# name -> module below and function, and what it says; in the order in which they are checked
PROPERTIES = {
    "fields": ("shapes:fields", "nothing that it declares is a misspelt name of what is handed down"),
    "shapes": ("shapes:shapes", "maps of the right size and dtype for 1 to 5 levels and odd sizes"),
    "levels": ("shapes:levels", "parameters are shared by all levels, but for those in `level_parameters`"),
    "train": ("training:train", "dropout and batch statistics follow `train`; detection has no random numbers"),
    "rates": (
        "training:rates",
        "what learning-rate multipliers reach; layers named offset are in `offset_parameters`",
    ),
    "detectors": ("detection:in_detectors", "losses and detection of all six"),
    "gradients": ("gradients:gradients", "of every parameter finite and not all zero"),
    "dead": ("gradients:dead", "which parameters have no gradient at the start; not all of an attention"),
    "batch": ("independence:batch", "an image's result does not depend on the others in its batch"),
    "padding": ("independence:padding", "nor, where `valid` is taken, on what lies in the padding"),
    "bfloat16": ("shapes:bfloat16", "close to float32; parameters stay float32"),
    "scan": ("forms:scan", "a loop over blocks, recomputed in the backward pass, equals the blocks one by one"),
    "sharding": ("forms:sharding", "no map travels between 8 devices"),
    "checkpoint": ("storage:checkpoint", "a checkpoint holds the weights, and the config with its options"),
    "export": ("storage:export", "so does the folder that dyhead_jax.export writes"),
}
