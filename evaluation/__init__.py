"""Scores of label maps, the check of a submission, and an organiser's harness. Needs no PyTorch."""
