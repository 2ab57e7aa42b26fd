"""The error for invalid configs."""


class ConfigError(ValueError):
    """An invalid config; the message names the field or the import path."""
