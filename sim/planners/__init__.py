"""Planners: what needs a search before it is a schedule. Strategies use them."""
