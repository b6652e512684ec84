"""Many cases: find them, read ahead, compute, write behind, report."""
