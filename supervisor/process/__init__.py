"""What a process of ours does with itself: its privileges, its lock files, Ctrl-C meanwhile."""
