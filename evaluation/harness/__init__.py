"""Runs any container as a challenge's organiser does, and checks and scores what it writes."""
