"""The window: episodes as timelines, on a terminal while they go on and afterwards."""
