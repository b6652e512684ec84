"""How the container is run on many machines, and what is in it."""
