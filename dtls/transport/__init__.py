"""Sockets and devices: the only room that opens them."""
