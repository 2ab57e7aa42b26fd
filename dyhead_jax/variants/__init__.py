"""Attentions and a block from other papers, for use in the place of DyHead's own, each named in a config by its import
path: `config.model.dyhead.spatial = "dyhead_jax.variants.dcn_v4:DCNv4"`. One file each; nothing is registered.

What each changes in DyHead's formula, its options and its cost: docs/variants.md.
"""
