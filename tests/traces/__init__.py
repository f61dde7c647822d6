"""Runs of agents, generated from seeds in the shapes of real APIs, and the loop guard judged on them."""
