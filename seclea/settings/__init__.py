"""Settings and where they come from. Nothing is read when this is imported; `load` reads."""

from seclea.settings.home import HomeChoice, home_directory
from seclea.settings.load import RC_NAME, load
from seclea.settings.values import KEYS, LOCAL, Limits, Origin, Resolved, Settings, WhenFull, format_size, parse_size
from seclea.settings.watch import LimitsWatch

__all__ = [
    "Settings",
    "Limits",
    "LimitsWatch",
    "Resolved",
    "Origin",
    "WhenFull",
    "load",
    "home_directory",
    "HomeChoice",
    "parse_size",
    "format_size",
    "KEYS",
    "LOCAL",
    "RC_NAME",
]
