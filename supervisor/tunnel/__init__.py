"""A tunnel's other half: the helper process that keeps root's privileges, and all that it does for the client."""
