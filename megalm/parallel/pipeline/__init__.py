"""The pipeline engine: a schedule is a program of actions, and one stage is a program too."""
