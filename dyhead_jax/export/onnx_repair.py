"""What jax2onnx writes in a form that onnxruntime does not take, in one that it does: pooling, and unused constants."""

from typing import Any


def repair(network: Any) -> Any:
    """The same onnx.ModelProto for onnxruntime.

    Pooling over images (b, h, w, c) comes as pooling in four dimensions; runtimes have at most three. Identity nodes of
    constants, which `stop_gradient` leaves, make onnxruntime's optimiser fail; of unused constants it warns one by one.
    """
    import onnx_ir  # type: ignore[import-not-found]
    from onnx_ir.passes import Sequential, common  # type: ignore[import-not-found]

    nodes = [part for node in network.graph.node for part in _pooled_in_two_dimensions(node)]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    tidy = Sequential(
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
    )
    return onnx_ir.to_proto(tidy(onnx_ir.from_proto(network)).model)


def _pooled_in_two_dimensions(node: Any) -> list[Any]:
    """The nodes in place of one: of a MaxPool of (1, 1, b, h, w, c) over h and w, one of (b, c, h, w); others stay."""
    from onnx import helper  # type: ignore[import-not-found]

    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    window = given.get("kernel_shape", ())
    if node.op_type != "MaxPool" or len(window) != 4 or window[0] != 1 or window[3] != 1:
        return [node]
    (source,), (target,) = node.input, node.output
    two = {"kernel_shape": window[1:3], "strides": given["strides"][1:3]}
    two["pads"] = [given["pads"][i] for i in (1, 2, 5, 6)] if "pads" in given else [0] * 4
    axes, images, channels_first, pooled, channels_last = (f"{target}/{i}" for i in range(5))
    return [
        helper.make_node("Constant", [], [axes], value_ints=[0, 1]),
        helper.make_node("Squeeze", [source, axes], [images]),
        helper.make_node("Transpose", [images], [channels_first], perm=[0, 3, 1, 2]),
        helper.make_node("MaxPool", [channels_first], [pooled], **two),
        helper.make_node("Transpose", [pooled], [channels_last], perm=[0, 2, 3, 1]),
        helper.make_node("Unsqueeze", [channels_last, axes], [target]),
    ]
