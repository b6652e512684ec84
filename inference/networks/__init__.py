"""The V-Net, its weights files, and the backends that run it."""
