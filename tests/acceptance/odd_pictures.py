"""Widths in pixels by which a picture tells `odd_worker` what to do. Apart, so that naming one changes no worker."""

KILLS, HANGS, EATS_MEMORY, BUG, SLOW = 66, 67, 68, 69, 70
