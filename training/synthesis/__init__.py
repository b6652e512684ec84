"""Synthetic CTs around label maps of kidneys."""
