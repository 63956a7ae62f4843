"""Events in, counted exactly once; usage out."""
