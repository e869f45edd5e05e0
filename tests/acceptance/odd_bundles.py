"""What `two_bundles` holds, and how its second one behaves. Apart, so that naming one changes no worker."""

#: Fingerprints.
OLD, NEW = "old-pipeline", "new-pipeline"
#: It answers, ends in a bug, hangs in the engine, ends its engine, or waits for a file.
WELL, BUG, HANGS, DIES, WAITS = "well", "bug", "hangs", "dies", "waits"
