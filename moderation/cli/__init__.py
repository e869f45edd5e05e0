"""The commands: `bonafide …`. Each ends with 0 when it did what was asked, 1 when it could not, 2 for a wrong call."""
