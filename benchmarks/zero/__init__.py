"""ZeRO beside other engines, with the same model and the same steps; and what the updates cost."""
