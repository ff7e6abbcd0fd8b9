"""A module that fails on import."""

raise RuntimeError("no such engine on this machine")
