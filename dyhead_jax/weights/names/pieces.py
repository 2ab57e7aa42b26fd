"""Rules of the layers that all tables are made of: a layer of PyTorch, one of ours, and how its arrays are laid out."""

from dyhead_jax.weights.state_dict import Rule

COUNTERS = ("*num_batches_tracked", "counters of batch norm, unused at inference and here")


def conv(source: str, target: str, bias: bool = False) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "conv"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def linear(source: str, target: str, bias: bool = True) -> tuple[Rule, ...]:
    rules = (Rule(f"{source}.weight", f"{target}/kernel", "linear"),)
    return (*rules, Rule(f"{source}.bias", f"{target}/bias", "same")) if bias else rules


def flat_conv(source: str, target: str) -> tuple[Rule, ...]:
    """A 1x1 convolution with bias that is a linear layer here."""
    return (Rule(f"{source}.weight", f"{target}/kernel", "flat_conv"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def norm(source: str, target: str) -> tuple[Rule, ...]:
    """Layer or group norm."""
    return (Rule(f"{source}.weight", f"{target}/scale", "same"), Rule(f"{source}.bias", f"{target}/bias", "same"))


def batch_norm(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *norm(source, target),
        Rule(f"{source}.running_mean", f"{target}/mean", "same", "batch_stats"),
        Rule(f"{source}.running_var", f"{target}/var", "same", "batch_stats"),
    )
