"""DFA-Bench: a bundle scored through the engine that serves it, every number with its n, interval and control."""
