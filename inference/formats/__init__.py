"""Reading CTs and writing label maps: one file a format."""
