"""The page behind a flow's marks: what its client says of itself, and what others ask of the client."""
