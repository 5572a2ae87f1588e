"""Rollouts as they are kept, and what is seen of them."""
