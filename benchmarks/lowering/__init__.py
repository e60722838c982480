"""Time and memory of making, lowering and checking large pipeline programs, which every rank does before its first."""
