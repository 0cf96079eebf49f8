"""Real servers and processes, killed, stopped, restarted and cut off at random points by a seed."""
