"""rankpipe."""
