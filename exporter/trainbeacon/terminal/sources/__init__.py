"""Where facts come from. Each source is read in a thread of its own and never while something is drawn."""
