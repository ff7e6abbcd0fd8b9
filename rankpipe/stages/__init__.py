"""The stages, one file per family."""
