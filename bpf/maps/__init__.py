"""The program's maps as objects: the switch, the policy, flows and their rings, counters, what is pinned."""
