"""Bad and odd inputs, damaged files, and kills at random moments."""
