"""The V-Net, its weights, and what runs it."""
