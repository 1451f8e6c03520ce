"""One session: its loop, its channels, and when to change or end them."""
