"""The allowed values of training options. A module declares its own choices as types of its fields; `validate` checks
both."""

from dyhead_jax.choices import Choice


class Dtype(Choice):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Optimizer(Choice):
    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(Choice):
    STEP = "step"
    COSINE = "cosine"
    CONSTANT = "constant"


class ParallelKind(Choice):
    PMAP = "pmap"
    JIT = "jit"
    SINGLE = "single"


class Merge(Choice):
    NMS = "nms"
    VOTE = "vote"
