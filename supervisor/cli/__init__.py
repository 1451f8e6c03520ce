"""The command line: the table of commands, and what is asked of whoever typed one."""
