"""How it is learned: update rules over owned ranges, clipping, learning-rate schedules."""
