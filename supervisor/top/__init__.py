"""`qosctl top`: two looks at the counters make a rate. sample (reads), rates and screen (pure), terminal."""
