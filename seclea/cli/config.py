"""``seclea config``: the settings in force, and where each came from."""

from __future__ import annotations

from seclea.settings import home_directory, load


def show_config(*, origin: bool) -> int:
    """Print the settings as the RC file has them; with ``origin`` also where each value stands."""
    resolved = load()
    values = resolved.settings.to_json()
    limits = values.pop("limits")
    rows = [(name, value) for name, value in values.items() if name in resolved.origins]
    rows += [(f"limits.{name}", value) for name, value in limits.items()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line = f"{name:<{width}} = {value!r}"
        print(f"{line:<{width + 44}} # {resolved.origins[name]}" if origin else line)
    choice = home_directory()
    print(f"{'home':<{width}} = {str(choice.path)!r}" + (f"  # {choice.reason}" if choice.reason else ""))
    return 0
