"""How all commands speak: lines on stderr, JSON documents, exit codes."""
