"""What every context stands on: money, time, ids, errors, settings and the clock."""
