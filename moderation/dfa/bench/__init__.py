"""DFA-Bench scores a bundle through its serving engine. Every number has its n, interval and control."""
