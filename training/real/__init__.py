"""Real scans in training: drawn as scanners differ, with lesions painted into their kidneys."""
