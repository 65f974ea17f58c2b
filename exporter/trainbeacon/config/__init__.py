"""Settings: what they are, how they are checked, and what may be shown of them."""

from .settings import Config, ConfigError

__all__ = ["Config", "ConfigError"]
