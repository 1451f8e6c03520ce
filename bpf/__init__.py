"""The contract between kernel and user space: the program, its maps, and the types both sides share."""
