"""Indexes: build, open, search. They receive texts or vectors and never load encoders."""
