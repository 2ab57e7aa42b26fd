"""The error of a config that no run can use."""


class ConfigError(ValueError):
    """A value that no run can use; the message names the field or the import path."""
