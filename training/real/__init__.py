"""Real scans in training: augmented, with lesions painted into their kidneys."""
