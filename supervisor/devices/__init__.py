"""What stands at a network device's egress, and the switch and policy that go with it."""
