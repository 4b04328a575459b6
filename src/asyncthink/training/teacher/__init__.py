"""Cold-start traces that another model writes, and how they are asked for, judged, counted and kept."""
