"""Attach, detach, switch and report: the command line and its Python counterparts."""
